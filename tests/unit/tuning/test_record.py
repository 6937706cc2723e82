"""Two books, each trial once in each, whenever the driver is killed: real Optuna and MLflow on SQLite, no Ray."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from raycls import tracking
from raycls.config import override
from raycls.errors import StudyError
from raycls.tuning.record import StudyRecord, read
from raycls.tuning.spec import StudySpec, Trial
from raycls.tuning.study import Study


@pytest.fixture
def run(digits_home: Path, request: pytest.FixtureRequest) -> tracking.Run:
    tags = {"kind": "study"}
    created = tracking.client().create_run(
        tracking.experiment("digits"), run_name=request.node.name, tags=tags
    )
    return tracking.Run(created.info.run_id)


def _metrics(epoch: int, accuracy: float) -> dict[str, float]:
    return {"epoch": epoch, "val_accuracy": accuracy, "train_seconds": float(epoch)}


def _children(run: tracking.Run) -> dict[int, tuple[str, list[int]]]:
    """By trial: the MLflow run's status, and the steps of its curve."""
    found = tracking.find_runs("digits", f"tags.`mlflow.parentRunId` = '{run.id}'")
    numbers = [int(child.data.tags["trial"]) for child in found]
    assert len(set(numbers)) == len(numbers), "a trial has two runs"
    steps = [
        [point.step for point in tracking.client().get_metric_history(child.info.run_id, "val_accuracy")]
        for child in found
    ]
    return {n: (child.info.status, s) for n, child, s in zip(numbers, found, steps, strict=True)}


def test_trials_end_in_both_books(spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest) -> None:
    record = StudyRecord(spec, request.node.name, run)
    first = record.ask()
    assert first is not None
    assert first.config(spec.config) == spec.config  # the configuration itself
    for epoch in (1, 2, 3):
        assert not record.epoch(0, _metrics(epoch, 0.5 + epoch / 10))
    assert record.end(0, "done").score == pytest.approx(0.8)
    second, third = record.ask(), record.ask()
    assert second is not None and third is not None
    assert record.epoch(1, _metrics(1, 0.1)), "far below the first trial's first epoch: hopeless"
    assert record.end(1, "stopped early").epochs == 1
    ended = record.end(2, "failed", "the loss became nan")
    assert (ended.state, ended.reason, ended.score) == ("failed", "the loss became nan", None)
    fourth = record.ask()
    assert fourth is not None
    assert record.end(3, "done").reason == "it ended before its first epoch did"
    assert record.ask() is None
    assert _children(run) == {
        0: ("FINISHED", [1, 2, 3]),
        1: ("FINISHED", [1]),
        2: ("FAILED", []),
        3: ("FAILED", []),
    }
    assert [trial.state for trial in read(request.node.name)] == [
        "done",
        "stopped early",
        "failed",
        "failed",
    ]


def test_nothing_is_stopped_in_the_first_third_of_a_long_trial(
    spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    record = StudyRecord(spec.model_copy(update={"max_epochs": 9}), request.node.name, run)
    assert record.ask() is not None
    for epoch in range(1, 10):
        assert not record.epoch(0, _metrics(epoch, 0.5 + epoch / 20))
    record.end(0, "done")
    assert record.ask() is not None
    assert [record.epoch(1, _metrics(epoch, 0.1)) for epoch in (1, 2, 3)] == [False, False, True]


def test_a_study_that_was_broken_off_goes_on_with_each_trial_once(
    spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = request.node.name
    killed = StudyRecord(spec, name, run)
    asked = [killed.ask(), killed.ask()]
    killed.epoch(0, _metrics(1, 0.6))
    killed.epoch(1, _metrics(1, 0.7))
    # The driver dies between the two books: Optuna knows the end of trial 1, MLflow does not.
    monkeypatch.setattr(killed._runs, "close", lambda trial: None)
    killed.end(1, "stopped early")

    record = StudyRecord(spec, name, run)
    assert _children(run)[1] == ("FINISHED", [1])
    again = record.ask()
    assert again is not None and asked[0] is not None
    assert (again.number, again.values) == (0, asked[0].values)
    for epoch in (1, 2, 3):  # its process tells the last epoch again
        record.epoch(0, _metrics(epoch, 0.6))
    record.end(0, "done")
    rest = []
    while trial := record.ask():
        rest.append(trial)
        record.epoch(trial.number, _metrics(3, 0.5))
        record.end(trial.number, "done")
    assert [trial.number for trial in rest] == [2, 3]
    assert _children(run) == {
        0: ("FINISHED", [1, 2, 3]),
        1: ("FINISHED", [1]),
        2: ("FINISHED", [3]),
        3: ("FINISHED", [3]),
    }
    assert len({str(trial.values) for trial in record.trials()}) == 4


def test_a_trial_that_was_asked_for_and_nothing_more_gets_its_values(
    spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    StudyRecord(spec, name, run)._study.ask()  # killed before a value was chosen
    trial = StudyRecord(spec, name, run).ask()
    assert trial is not None
    assert trial.number == 0
    assert trial.config(spec.config) == spec.config


def test_an_epoch_in_which_the_process_dies_is_tried_three_times(
    spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    spec = spec.model_copy(update={"trials": 1})
    record = StudyRecord(spec, request.node.name, run)
    for _ in range(2):
        trial = record.ask()
        assert trial is not None and trial.number == 0
        assert record.exhausted
        assert record.died(0, "out of memory") is None
        assert not record.exhausted
    record.ask()
    ended = record.died(0, "out of memory")
    assert ended is not None
    assert (ended.state, ended.reason) == ("failed", "its process died 3 times in epoch 1: out of memory")
    assert record.exhausted
    assert _children(run) == {0: ("FAILED", [])}


def test_a_process_that_is_killed_in_every_epoch_does_not_fail_its_trial(
    spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    spec = spec.model_copy(update={"trials": 1, "scheduler": "none"})
    for epoch in (1, 2, 3):
        for _ in range(2):
            record = StudyRecord(spec, request.node.name, run)  # the driver dies with it
            assert record.ask() is not None
            assert record.died(0, "killed") is None
        record.ask()
        record.epoch(0, _metrics(epoch, 0.5))
    assert record.end(0, "done").score == 0.5


def test_a_grid_is_tried_point_by_point(
    spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    spec = spec.model_copy(update={"search": "grid", "trials": 48, "scheduler": "none"})
    StudyRecord(spec, request.node.name, run)
    record = StudyRecord(spec, request.node.name, run)  # a second attempt adds nothing
    trials = record.trials()
    assert len(trials) == 48
    assert {trial.state for trial in trials} == {"waiting"}
    first = record.ask()
    assert first is not None
    assert first.number == 0


def test_a_gaussian_process_goes_by_what_it_has_seen_also_when_the_study_is_taken_up_again(
    spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    spec = spec.model_copy(update={"search": "gp", "trials": 12, "seed": 1})
    best_lr = spec.config.optim.lr * 2  # an octave above where the search begins

    def octaves(trial: Trial) -> float:
        return abs(math.log2(trial.config(spec.config).optim.lr / best_lr))

    record = StudyRecord(spec, request.node.name, run)
    for number in range(12):
        if number == 7:
            record = StudyRecord(spec, request.node.name, run)
        trial = record.ask()
        assert trial is not None
        record.epoch(number, _metrics(3, 1 - 0.1 * octaves(trial)))
        record.end(number, "done")
    seen = [octaves(trial) for trial in record.trials()]
    assert max(seen[-4:]) < 0.4
    assert max(seen[:5]) > 0.4


def test_studies_that_are_not_there_are_told(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match="no study 'nope'; the studies are: "):
        read("nope")
    monkeypatch.setenv("RAYCLS_STUDIES", "sqlite:////dev/null/studies.db")
    with pytest.raises(StudyError, match=r"does not answer.*RAYCLS_STUDIES"):
        read("nope")


def test_a_study_goes_by_its_metric_and_a_lower_loss_is_better(
    spec: StudySpec, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    config = override(spec.config, ["training.metric=log_loss"])
    record = StudyRecord(spec.model_copy(update={"config": config}), request.node.name, run)
    for number, losses in enumerate(((2.0, 1.5, 1.8), (0.9, 0.5, 0.7))):
        assert record.ask() is not None
        for epoch, loss in enumerate(losses, 1):
            # A higher accuracy goes with the higher loss, and must not count.
            stop = record.epoch(number, {**_metrics(epoch, loss / 3), "val_loss": loss})
            assert not stop, "the second trial is better from its first epoch on"
        record.end(number, "done")
    worse, better = read(request.node.name)[:2]
    assert (worse.score, better.score) == (-1.5, -0.5)
    assert better.told_score == "val_loss 0.5000"
    assert Study(name="", run_id="", spec=spec, trials=(worse, better)).best is better
