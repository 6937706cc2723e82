"""`raycls down` while clients ask: what is inside is answered, and what comes later is not taken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import requests
from urllib3.exceptions import NewConnectionError

from raycls import cluster
from raycls.cluster.environment import free_port
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult
from tests.predict import OCTETS, encoded

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
FORWARD_MS = 300  # so that requests are inside when it is stopped
CLIENTS = 8


def _is_refused(error: requests.RequestException) -> bool:
    """Whether no connection was made: nothing of the request has reached the server."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError)


@pytest.mark.timeout(300)
def test_requests_that_are_inside_are_answered(
    home: Path, digits_home: Path, trained: TrainingResult, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{digits_home}/mlflow.db")
    document = ServeConfiguration.read(CONFIG).pinned(model="digits", port=free_port(8000), replicas=1)
    document.arguments["simulate_forward_ms"] = FORWARD_MS
    up = deploy.up(document, detach=True)
    running = cluster.status()
    assert running is not None
    image, ends = encoded(), Counter[str]()

    def ask() -> None:
        while True:
            try:
                answer = requests.post(
                    f"{up.url}/predict", image, headers={"Content-Type": OCTETS}, timeout=60
                )
            except requests.RequestException as error:
                ends["refused" if _is_refused(error) else repr(error)] += 1
                return
            ends[str(answer.status_code)] += 1

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while ends["200"] < CLIENTS:
        time.sleep(0.05)
    before = ends["200"]
    assert deploy.down()
    for thread in threads:
        thread.join(60)
    assert ends.keys() == {"200", "refused"}, ends
    assert ends["refused"] == CLIENTS
    assert ends["200"] > before, "requests were inside"
    assert running.head.members() == []
