"""Users of a classifier, who look at an answer before they send the next picture. For Locust (`pip install locust`).

    locust -f deploy/locustfile.py --web-host 127.0.0.1 --host http://127.0.0.1:8000 --pictures photos/
    locust -f deploy/locustfile.py --host https://predict.example.org --pictures photos/ \\
        --headless --users 100 --spawn-rate 20 --run-time 60s

RAYCLS_TOKEN is sent where it is set, to any host: name one with https, or this machine. A picture of the folder is
chosen at random for each request.
"""

from __future__ import annotations

import os
import random
from argparse import ArgumentParser
from pathlib import Path

from locust import HttpUser, between, events, task

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    # Locust's own page cannot show a path and a pair.
    parser.add_argument(
        "--pictures",
        type=Path,
        default=Path("photos"),
        help="a folder of pictures to send",
        include_in_web_ui=False,
    )
    parser.add_argument(
        "--think",
        type=float,
        nargs=2,
        default=(1.0, 3.0),
        help="seconds between two requests",
        include_in_web_ui=False,
    )


@events.test_start.add_listener
def read_pictures(environment, **_) -> None:  # type: ignore[no-untyped-def]
    """Read the pictures once, for all users."""
    options = environment.parsed_options
    files = sorted(path for path in options.pictures.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"there is no picture in {options.pictures}: name a folder with --pictures")
    environment.pictures = [path.read_bytes() for path in files]


class User(HttpUser):
    """Sends one picture, waits for the answer, and thinks."""

    def wait_time(self) -> float:
        return between(*self.environment.parsed_options.think)(self)

    def on_start(self) -> None:
        if token := os.environ.get("RAYCLS_TOKEN"):
            self.client.headers["Authorization"] = f"Bearer {token}"

    @task
    def predict(self) -> None:
        picture = random.choice(self.environment.pictures)
        self.client.post("/predict", data=picture, headers={"Content-Type": "application/octet-stream"})
