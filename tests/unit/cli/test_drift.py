"""`raycls drift` shows the last window of a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from raycls.cli import app
from raycls.cluster.environment import ADMIN_TOKEN

WINDOW = {
    "version": "pets/6",
    "began": "2026-11-28T12:00:00+00:00",
    "ended": "2026-11-28T12:30:00+00:00",
    "images": 2000,
    "findings": [
        {"feature": "brightness", "statistic": 0.91, "p": 0.0, "effect": 8.4, "alarm": True},
        {"feature": "size", "statistic": 0.01, "p": 0.8, "effect": 0.0, "alarm": False},
    ],
    "alarms": ["brightness"],
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Any]]]:
    """Return the URL of a server and the windows that it answers to an admin."""
    windows: list[Any] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert (self.path, self.headers["Authorization"]) == ("/drift", "Bearer secret")
            body = json.dumps({"windows": windows}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv(ADMIN_TOKEN, "secret")
    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", windows
        http.shutdown()
        thread.join()


def _drift(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["drift", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_last_window_is_a_table_and_all_are_a_document(server: tuple[str, list[Any]]) -> None:
    url, windows = server
    windows += [WINDOW, WINDOW | {"version": "pets/5"}]
    shown = _drift("--url", url)
    assert "pets/6: 2,000 images" in shown
    assert "pets/5" not in shown
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert rows["brightness"].split()[1:] == ["0.91", "0", "8.400", "ALARM"]
    assert "ALARM" not in rows["size"]
    assert json.loads(_drift("--url", url, "--json")) == windows


def test_without_a_window_it_says_what_one_takes(server: tuple[str, list[Any]]) -> None:
    assert "an hour with at least 100" in _drift("--url", server[0])
    assert json.loads(_drift("--url", server[0], "--json")) == []
