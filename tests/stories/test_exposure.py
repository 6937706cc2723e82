"""A server that asks for a token is not opened by a configuration that forgets it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from raycls import cluster
from raycls.cluster.environment import free_port, token
from raycls.serving.auth import TOKEN
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.deploy import Served
from raycls.serving.control.serve_rest import Serve, reason
from raycls.training.filing import TrainingResult
from tests.predict import OCTETS, encoded

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
SECRET = "correct-horse-battery-staple"


@pytest.fixture
def running(
    home: Path, digits_home: Path, trained: TrainingResult, served: Served, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A cluster whose HTTP server other machines reach, and that asks for a token.

    Another cluster of the same machine serves without a token. It must not answer for this one.
    """
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{digits_home}/mlflow.db")
    monkeypatch.setenv(TOKEN, SECRET)
    document = ServeConfiguration.read(CONFIG).pinned(
        model="digits", host="0.0.0.0", port=free_port(8000), replicas=1
    )
    deploy.up(document, detach=True)
    yield cluster.status()
    assert deploy.down()


def _serve(running: cluster.Cluster) -> Serve:
    return Serve(running.dashboard)


def _serve_deploy(running: cluster.Cluster, file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray.serve.scripts", "deploy", "--address", running.dashboard, str(file)],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(300)
def test_serve_deploy_of_a_file_without_a_token_opens_nothing(running: Any, tmp_path: Path) -> None:
    document = _serve(running).served()
    assert document is not None and document.host == "0.0.0.0"
    image = encoded()

    def status(token: str | None) -> int:
        headers = {"Content-Type": OCTETS} | ({"Authorization": f"Bearer {token}"} if token else {})
        return requests.post(f"{document.url}/predict", image, headers=headers, timeout=30).status_code

    assert {status(None) for _ in range(50)} == {401}
    for process in running.head.members():
        assert SECRET.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes(), process.cmdline()
    assert status(SECRET) == 200

    _serve_deploy(running, CONFIG)  # its host is loopback, which Serve ignores from its start on
    seen = set()
    deadline = time.monotonic() + 120
    while (state := _serve(running).details()["applications"]["raycls"])["status"] != "DEPLOY_FAILED":
        seen.add(status(None))
        assert 200 not in seen and time.monotonic() < deadline, (seen, state["status"])
        time.sleep(0.1)
    assert "Traceback" not in state["message"], state["message"]
    assert "other machines reach 0.0.0.0, and the application asks for no token" in reason(state["message"])
    for _ in range(20):
        seen.add(status(None))
        time.sleep(0.1)
    assert seen == {401}
    assert status(SECRET) == 200  # the former application goes on

    with pytest.raises(Exception, match="asks for no token"):
        deploy.deploy(ServeConfiguration.read(CONFIG).pinned(replicas=1))
    assert status(None) == 401

    meant = tmp_path / "serve_config.yaml"
    meant.write_text(CONFIG.read_text().replace("threads: 1 ", "threads: 1\n      no_auth: true "))
    _serve_deploy(running, meant)
    deadline = time.monotonic() + 120
    while status(None) != 200:
        assert time.monotonic() < deadline, _serve(running).details()["applications"]
        time.sleep(0.25)
