"""A server of a checkout of raycls, this one or an older one, with a model that the checkout itself has trained.

    with serve(Path("."), "digits", "smoke", versions=2) as new, serve(Path("../before"), "digits", "smoke") as old:
        LoadGenerator(f"{new.url}/predict", new.images)

Each has a home of its own and its checkout's own environment (CHECKOUT/.venv). The first version is champion.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raycls import home, local_http, progress
from raycls.benchmark.images import write_images
from raycls.cluster.environment import free_port
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError

IMAGES = 500


@dataclass(frozen=True)
class CheckoutServer:
    """images: a folder of images to send. admin: the admin token, "" where the checkout knows none."""

    url: str
    images: Path
    model: str
    admin: str

    def call(self, method: str, path: str, document: Any = None) -> Any:
        """Send a request to the control plane and return its answer. Raises requests.HTTPError where it refuses."""
        headers = {"Authorization": f"Bearer {self.admin}"}
        answer = local_http.request(method, self.url + path, json=document, headers=headers, timeout=120)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def serve(
    checkout: Path, dataset: str, preset: str, *, replicas: int = 2, versions: int = 1
) -> Iterator[CheckoutServer]:
    """Train `versions` models from the prepared dataset, serve the first one, and stop at the end.

    Raises UnknownDatasetError, and BenchmarkError where a command of the checkout fails.
    """
    prepared = open_dataset(dataset)
    with tempfile.TemporaryDirectory(prefix="raycls-checkout-") as folder:
        own = Path(folder) / "home"
        own.mkdir()
        (own / "datasets").symlink_to(home.datasets())
        config = yaml.safe_load((checkout / "serve_config.yaml").read_text())
        config["http_options"]["port"] = free_port(8000)
        for deployment in config["applications"][0]["deployments"]:
            deployment.pop("autoscaling_config", None)
            deployment["num_replicas"] = replicas
        (Path(folder) / "serve_config.yaml").write_text(yaml.safe_dump(config))
        write_images(prepared, Path(folder) / "images", IMAGES)

        def raycls(*words: str) -> str:
            done = subprocess.run(
                [str(checkout.absolute() / ".venv/bin/python"), "-m", "raycls", *words],
                cwd=folder,
                env=os.environ | {"RAYCLS_HOME": str(own)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise BenchmarkError(f"raycls {' '.join(words)} of {checkout} failed: {done.stderr[-2000:]}")
            return done.stdout

        name = prepared.info.name
        for seed in range(versions):
            with progress.bar(f"{checkout.absolute().name}: training version {seed + 1}"):
                raycls("train", dataset, "--preset", preset, "--set", f"training.seed={seed}")
        raycls("promote", name, "1")
        up = json.loads(raycls("up", "--detach", "--json"))
        try:
            admin = Path(up["admin_token"]).read_text().strip() if up.get("admin_token") else ""
            yield CheckoutServer(up["url"], Path(folder) / "images", name, admin)
        finally:
            raycls("down")
