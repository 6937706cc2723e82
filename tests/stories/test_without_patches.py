"""raycls serves, updates and replaces killed replicas with RAYCLS_PATCHES=none: only the speed is the patches'."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.served_copy import register_again

from raycls import cluster, registry
from raycls.benchmark import usage
from raycls.cli import run
from raycls.cluster.environment import free_port
from raycls.ray_patches.guard import CHOICE
from raycls.serving.control import deploy, rollout
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.deploy import Served
from raycls.serving.control.serve_rest import Serve
from raycls.training.filing import TrainingResult
from tests.load import asking

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
PATIENCE_S = 60


@pytest.fixture
def unpatched(
    home: Path, digits_home: Path, champion: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """The champion on two replicas of a cluster of its own, in which no optimisation acts."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{digits_home}/mlflow.db")
    monkeypatch.setenv(CHOICE, "none")
    configuration = ServeConfiguration.read(CONFIG).pinned(model="digits", port=free_port(8000), replicas=2)
    yield deploy.up(configuration, detach=True)
    assert deploy.down()


@pytest.mark.long
@pytest.mark.timeout(400)
def test_serve_update_and_kill_without_the_optimisations(
    unpatched: Served, champion: TrainingResult, capsys: pytest.CaptureFixture[str]
) -> None:
    running = cluster.status()
    assert running is not None and champion.version is not None
    (ingress,) = Path(running.directory).glob("*/haproxy.cfg")
    assert "http-request return status 429" not in ingress.read_text()
    run(["doctor", "--json"])
    states = [
        finding["text"] for finding in json.loads(capsys.readouterr().out) if "patch" in finding["text"]
    ]
    assert sum(": off (RAYCLS_PATCHES=none)" in state for state in states) == 6
    assert sum(": active" in state for state in states) == 4  # security and the control plane need these

    second = register_again(champion.version, registry.checkpoint(champion.version))
    with asking(unpatched) as (failed, seen):
        rollout.promote("digits", second.version, force="a copy")
        _wait(lambda: second.version in seen, "no client was answered by the new version")
        victim = usage.replicas(running.pid)[0]
        victim.kill()
        _wait(lambda: not victim.is_running() and _replicas(running) == 2, "no new replica")
    assert seen == {champion.version.version, second.version}
    # HAProxy repeats what the killed replica did not answer; half an answer cannot be repeated without the patch.
    assert len(failed) <= 4, failed


def _replicas(running: cluster.Cluster) -> int:
    """The replicas that Serve counts as running."""
    details = Serve(running.dashboard).details()["applications"]["raycls"]["deployments"]["Classifier"][
        "replicas"
    ]
    return sum(replica["state"] == "RUNNING" for replica in details)


def _wait(condition: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.1)
