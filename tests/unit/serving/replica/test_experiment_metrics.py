"""The series of an experiment at GET /metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from raycls.serving.replica.arm_counts import ExperimentCounts
from raycls.serving.replica.experiment_metrics import experiment_families
from raycls.serving.replica.metrics import exposition


def _series(*replicas: tuple[str, ExperimentCounts | None]) -> dict[tuple[str, ...], float]:
    response = exposition([experiment_families(name, counts) for name, counts in replicas])
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(bytes(response.body).decode())
        for sample in family.samples
    }


def test_both_versions_of_every_replica_are_told() -> None:
    counts = ExperimentCounts("a1b2", 2, 2)
    counts.champion.answered([], 0.004)
    counts.challenger.answered([], 0.02)
    counts.challenger.answered([], 0.2)
    counts.challenger.failed("late")
    counts.compared(same=True)
    counts.replaced = 1
    series = _series(("one", counts), ("two", counts))
    for replica in ("one", "two"):
        assert series["raycls_experiment_requests_total", "champion", "a1b2", replica] == 1
        assert series["raycls_experiment_requests_total", "challenger", "a1b2", replica] == 2
        assert series["raycls_experiment_failures_total", "challenger", "a1b2", "late", replica] == 1
        assert series["raycls_experiment_seconds_count", "challenger", "a1b2", replica] == 2
        assert series["raycls_experiment_seconds_sum", "challenger", "a1b2", replica] == 0.22
        assert series["raycls_experiment_seconds_bucket", "challenger", "a1b2", "0.025", replica] == 1
        assert series["raycls_experiment_compared_total", "yes", "a1b2", replica] == 1
        assert series["raycls_experiment_replaced_total", "a1b2", replica] == 1


def test_without_an_experiment_there_is_no_series() -> None:
    assert set(_series(("one", None))) == {("raycls_complete",)}
