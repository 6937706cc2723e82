"""A picture whose decoding ends the process: it is tried twice, and not by every replica."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import requests

from raycls import cluster
from raycls.cluster.environment import free_port
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration
from raycls.training.filing import TrainingResult
from tests.load import CLIENTS, asking
from tests.predict import OCTETS, encoded
from tests.product import until

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
DEADLY = b"this ends the process"
# Python imports it at the start of every process. It adds the fault of a decoder to raycls's decoding.
FAULT = """
import importlib.abc, importlib.machinery, os, signal, sys

class Fault(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "raycls.data.transforms":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            sound = module.decode_with_facts

            def decode_with_facts(data, **options):
                if DEADLY in data:
                    with open(os.environ["TRIED"], "a") as file:
                        file.write(f"{os.getpid()}\\n")
                    os.kill(os.getpid(), signal.SIGKILL)
                return sound(data, **options)

            module.decode_with_facts = decode_with_facts

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Fault())
""".replace("DEADLY", repr(DEADLY))


@pytest.mark.timeout(300)
def test_a_request_that_kills_is_tried_twice(
    home: Path,
    digits_home: Path,
    trained: TrainingResult,
    served: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    tried = tmp_path / "tried"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TRIED", str(tried))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{digits_home}/mlflow.db")
    document = ServeConfiguration.read(CONFIG).pinned(model="digits", port=free_port(8000), replicas=3)
    up = deploy.up(document, detach=True, num_cpus=4)
    running = cluster.status()
    assert running is not None
    (config,) = Path(running.directory).rglob("haproxy.cfg")
    try:
        # Until HAProxy knows all three: where it knows one, it turns to Ray's own proxy.
        until(lambda: config.read_text().count(" SERVE_REPLICA_raycls-Classifier-") == 3, 60)
        with asking(up) as (failed, seen):
            deadly = encoded() + DEADLY  # what follows a PNG's end is not part of it
            answer = requests.post(f"{up.url}/predict", deadly, headers={"Content-Type": OCTETS}, timeout=60)
    finally:
        assert deploy.down()
    assert (answer.status_code, answer.json()["status"]) == (502, 502)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(tried.read_text().splitlines()) == 2
    # A request that was inside the first replica may have been repeated on the second.
    assert len(failed) <= CLIENTS, failed
    assert seen
