"""The benchmarks against the real thing: replicas of a served model, and training under Ray Train."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from benchmarks.training import main
from raycls import cluster
from raycls.serving import deploy
from raycls.serving.benchmark import replicas
from raycls.serving.benchmark.results import Plan
from raycls.serving.deploy import Served
from raycls.training.trainer import TrainingResult


def test_one_and_two_replicas_are_deployed_measured_and_the_former_state_restored(
    served: Served, trained: TrainingResult, serve_config: Path
):
    running = cluster.status()
    assert running is not None

    def deployed() -> object:
        return deploy.applications(running)["applications"]["raycls"]["deployed_app_config"]

    before = deployed()
    plan = Plan(replicas=(1, 2), connections=(1, 8), rates="auto", seconds=0.5, repeats=1)
    results = replicas.run(plan, config=serve_config, port=urlsplit(served.url).port)
    assert deployed() == before
    assert requests.get(f"{served.url}/health", timeout=10).json()["status"] == "ok"

    assert results.counts == [1, 2]
    assert len(results.points) == 2 * (2 + 2)
    for point in results.points:
        assert point.errors == {}
        assert point.batch_mean is not None
        assert 1 <= point.batch_mean <= point.batch_max <= 64
        assert point.cores["replicas"] > 0
        assert point.cores["ingress"] > 0
    assert results.closed(1)[0].batch_mean == 1  # one connection leaves nothing to batch
    assert set(results.memory_mib) == {1, 2}
    assert results.model == served.model
    assert results.config["max_batch_size"] == 64
    assert results.config["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert results.accuracy_over_http == pytest.approx(trained.metrics["test_accuracy"], abs=0.1)


@pytest.mark.slow
def test_training_is_timed_against_the_plain_peer(
    digits_home: Path, ray_session: None, tmp_path: Path, capsys
):
    main(["presets", "--dataset", "digits", "--preset", "smoke", "--seeds", "3", "--output", str(tmp_path)])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document == json.loads((tmp_path / "training" / "presets-smoke.json").read_text())
    (run,) = document["rows"]
    assert run["seed"] == 3
    assert 0 < run["test_accuracy"] <= 1
    assert (
        f"**{run['train_seconds'] / run['peer_epoch_seconds']:.2f}**"
        in (tmp_path / "training.md").read_text()
    )
