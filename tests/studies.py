"""Checks that a study recorded each trial once in Optuna and in MLflow, and each epoch once."""

from __future__ import annotations

from raycls import tracking
from raycls.tuning.spec import Trial


def _curves(run_id: str) -> dict[int, list[int]]:
    """Return the logged steps of every trial of a study, by trial number. run_id: the study's MLflow run."""
    children = tracking.find_runs("digits", f"tags.`mlflow.parentRunId` = '{run_id}'")
    numbers = [int(child.data.tags["trial"]) for child in children]
    assert len(set(numbers)) == len(numbers), "a trial has two runs"
    assert not any(child.info.status == "RUNNING" for child in children)
    return {
        number: [
            point.step for point in tracking.client().get_metric_history(child.info.run_id, "val_accuracy")
        ]
        for number, child in zip(numbers, children, strict=True)
    }


def assert_whole(trials: tuple[Trial, ...], run_id: str, count: int) -> None:
    """Check that Optuna and MLflow hold `count` trials, each once, and each epoch once."""
    assert [trial.number for trial in trials] == list(range(count))
    assert {trial.state for trial in trials} <= {"done", "stopped early"}
    assert _curves(run_id) == {trial.number: list(range(1, trial.epochs + 1)) for trial in trials}
