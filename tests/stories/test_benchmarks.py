"""The benchmarks against the real thing: replicas of a served model, and training under Ray Train."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from harness import training_parts
from harness.served_copy import register_again

from benchmarks.serving import compare
from benchmarks.training import main
from raycls import cluster, home, registry
from raycls.benchmark import replicas
from raycls.benchmark.results import Plan
from raycls.serving.control.deploy import Served
from raycls.serving.control.serve_rest import Serve
from raycls.training.filing import TrainingResult


def _stalled(error: str) -> bool:
    """A machine that stalls for a tenth of a second fills an open loop's queue, or keeps its client from sending."""
    return error == "429" or error.startswith("not sent")


def test_one_and_two_replicas_are_deployed_measured_and_the_former_state_restored(
    served: Served, trained: TrainingResult, serve_config: Path
):
    running = cluster.status()
    assert running is not None

    def deployed() -> object:
        return Serve(running.dashboard).details()["applications"]["raycls"]["deployed_app_config"]

    before = deployed()
    plan = Plan(replicas=(1, 2), connections=(1, 8), rates="auto", seconds=0.5, repeats=1)
    results = replicas.run(plan, model=served.model, config=serve_config, port=urlsplit(served.url).port)
    assert deployed() == before
    assert requests.get(f"{served.url}/health", timeout=10).json()["status"] == "ok"

    assert results.counts == [1, 2]
    assert len(results.points) == 2 * (2 + 2)
    for point in results.points:
        if point.rate:
            assert all(map(_stalled, point.errors)), point
        else:
            assert not point.errors, point
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
    assert results.bound_per_s
    assert results.bound_per_s > results.peak(1).requests_per_s


@pytest.mark.long
def test_replicas_of_a_network_that_takes_no_core_scale_beyond_the_cores(
    served: Served, serve_config: Path
) -> None:
    plan = Plan(replicas=(1, 4), connections=(16,), rates=(), seconds=2, repeats=1, simulate_forward_ms=20)
    results = replicas.run(plan, model=served.model, config=serve_config, port=urlsplit(served.url).port)
    assert results.bound_per_s is None
    assert 30 < results.peak(1).requests_per_s <= 50
    assert (results.efficiency(results.peak(4)) or 0) > 0.7
    assert results.config["simulate_forward_ms"] == 20
    running = cluster.status()
    assert running is not None
    document = Serve(running.dashboard).served()
    assert document is not None
    assert "simulate_forward_ms" not in document.arguments  # what was served is served again


@pytest.mark.long
@pytest.mark.timeout(600)
def test_raycls_is_measured_beside_a_peer_and_the_bound(
    trained: TrainingResult, digits_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained.version is not None
    directory = registry.checkpoint(trained.version)
    with tempfile.TemporaryDirectory(prefix="raycls-") as folder, home.elsewhere(Path(folder)):
        (Path(folder) / "datasets").symlink_to(digits_home / "datasets")
        own = register_again(trained.version, directory)
        options = ["--model", own.reference, "--rounds", "1", "--seconds", "1", "--output", str(tmp_path)]
        compare(["--peers", "FastAPI + uvicorn", *options])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document == json.loads((tmp_path / "servers" / "small.json").read_text())
    rows = document["rows"]
    (bound,) = [row for row in rows if "bound" in row]
    assert bound["images_per_s"] > 100
    measured = {(row["server"], row["count"]) for row in rows if "server" in row}
    names = ("raycls", "raycls, engine reference", "FastAPI + uvicorn")
    assert measured == {(name, count) for name in names for count in (1, 2)}
    assert all(row["requests_per_s"] > 10 for row in rows if "connections" in row)
    for row in (row for row in rows if row.get("server") == "raycls"):
        if "connections" in row:
            assert row["failed"] == 0, row
        else:
            assert all(map(_stalled, row["errors"])), row
    assert "requests/s / those of FastAPI + uvicorn, 2 workers" in (tmp_path / "servers.md").read_text()


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


@pytest.mark.long
def test_the_bare_loop_of_two_processes_agrees_with_one(digits_home: Path) -> None:
    one, two = (training_parts.without_ray("digits", "smoke", ["epochs=3"], workers, 1) for workers in (1, 2))
    assert one["test_accuracy"] > 0.8
    assert two["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=0.08)
    assert one["train_seconds"] > 0
    assert one["peak_memory_total"] > one["peak_memory_private"] > 2**26
