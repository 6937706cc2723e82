"""Two books, each trial once in each, whenever the driver is killed: real Optuna and MLflow on SQLite, no Ray."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from raycls import tracking
from raycls.errors import StudyError
from raycls.tuning import ledger as ledgers
from raycls.tuning.job import StudyJob, Trial
from raycls.tuning.ledger import Ledger


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


def test_trials_end_in_both_books(job: StudyJob, run: tracking.Run, request: pytest.FixtureRequest) -> None:
    ledger = Ledger(job, request.node.name, run)
    first = ledger.ask()
    assert first is not None
    assert first.config(job.config) == job.config  # the configuration itself
    for epoch in (1, 2, 3):
        assert not ledger.epoch(0, _metrics(epoch, 0.5 + epoch / 10))
    assert ledger.end(0, "done").val_accuracy == pytest.approx(0.8)
    second, third = ledger.ask(), ledger.ask()
    assert second is not None and third is not None
    assert ledger.epoch(1, _metrics(1, 0.1)), "far below the first trial's first epoch: hopeless"
    assert ledger.end(1, "stopped early").epochs == 1
    ended = ledger.end(2, "failed", "the loss became nan")
    assert (ended.state, ended.reason, ended.val_accuracy) == ("failed", "the loss became nan", None)
    fourth = ledger.ask()
    assert fourth is not None
    assert ledger.end(3, "done").reason == "it ended before its first epoch did"
    assert ledger.ask() is None
    assert _children(run) == {
        0: ("FINISHED", [1, 2, 3]),
        1: ("FINISHED", [1]),
        2: ("FAILED", []),
        3: ("FAILED", []),
    }
    assert [trial.state for trial in ledgers.read(request.node.name)] == [
        "done",
        "stopped early",
        "failed",
        "failed",
    ]


def test_nothing_is_stopped_in_the_first_third_of_a_long_trial(
    job: StudyJob, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    ledger = Ledger(job.model_copy(update={"max_epochs": 9}), request.node.name, run)
    assert ledger.ask() is not None
    for epoch in range(1, 10):
        assert not ledger.epoch(0, _metrics(epoch, 0.5 + epoch / 20))
    ledger.end(0, "done")
    assert ledger.ask() is not None
    assert [ledger.epoch(1, _metrics(epoch, 0.1)) for epoch in (1, 2, 3)] == [False, False, True]


def test_a_study_that_was_broken_off_goes_on_with_each_trial_once(
    job: StudyJob, run: tracking.Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = request.node.name
    killed = Ledger(job, name, run)
    asked = [killed.ask(), killed.ask()]
    killed.epoch(0, _metrics(1, 0.6))
    killed.epoch(1, _metrics(1, 0.7))
    # The driver dies between the two books: Optuna knows the end of trial 1, MLflow does not.
    monkeypatch.setattr(killed._runs, "close", lambda trial: None)
    killed.end(1, "stopped early")

    ledger = Ledger(job, name, run)
    assert _children(run)[1] == ("FINISHED", [1])
    again = ledger.ask()
    assert again is not None and asked[0] is not None
    assert (again.number, again.values) == (0, asked[0].values)
    for epoch in (1, 2, 3):  # its process tells the last epoch again
        ledger.epoch(0, _metrics(epoch, 0.6))
    ledger.end(0, "done")
    rest = []
    while trial := ledger.ask():
        rest.append(trial)
        ledger.epoch(trial.number, _metrics(3, 0.5))
        ledger.end(trial.number, "done")
    assert [trial.number for trial in rest] == [2, 3]
    assert _children(run) == {
        0: ("FINISHED", [1, 2, 3]),
        1: ("FINISHED", [1]),
        2: ("FINISHED", [3]),
        3: ("FINISHED", [3]),
    }
    assert len({str(trial.values) for trial in ledger.trials()}) == 4


def test_a_trial_that_was_asked_for_and_nothing_more_gets_its_values(
    job: StudyJob, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    Ledger(job, name, run)._study.ask()  # killed before a value was chosen
    trial = Ledger(job, name, run).ask()
    assert trial is not None
    assert trial.number == 0
    assert trial.config(job.config) == job.config


def test_an_epoch_in_which_the_process_dies_is_tried_three_times(
    job: StudyJob, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    job = job.model_copy(update={"trials": 1})
    ledger = Ledger(job, request.node.name, run)
    for _ in range(2):
        trial = ledger.ask()
        assert trial is not None and trial.number == 0
        assert ledger.exhausted
        assert ledger.died(0, "out of memory") is None
        assert not ledger.exhausted
    ledger.ask()
    ended = ledger.died(0, "out of memory")
    assert ended is not None
    assert (ended.state, ended.reason) == ("failed", "its process died 3 times in epoch 1: out of memory")
    assert ledger.exhausted
    assert _children(run) == {0: ("FAILED", [])}


def test_a_process_that_is_killed_in_every_epoch_does_not_fail_its_trial(
    job: StudyJob, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    job = job.model_copy(update={"trials": 1, "scheduler": "none"})
    for epoch in (1, 2, 3):
        for _ in range(2):
            ledger = Ledger(job, request.node.name, run)  # the driver dies with it
            assert ledger.ask() is not None
            assert ledger.died(0, "killed") is None
        ledger.ask()
        ledger.epoch(0, _metrics(epoch, 0.5))
    assert ledger.end(0, "done").val_accuracy == 0.5


def test_a_grid_is_tried_point_by_point(
    job: StudyJob, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    job = job.model_copy(update={"search": "grid", "trials": 48, "scheduler": "none"})
    Ledger(job, request.node.name, run)
    ledger = Ledger(job, request.node.name, run)  # a second attempt adds nothing
    trials = ledger.trials()
    assert len(trials) == 48
    assert {trial.state for trial in trials} == {"waiting"}
    first = ledger.ask()
    assert first is not None
    assert first.number == 0


def test_a_gaussian_process_goes_by_what_it_has_seen_also_when_the_study_is_taken_up_again(
    job: StudyJob, run: tracking.Run, request: pytest.FixtureRequest
) -> None:
    job = job.model_copy(update={"search": "gp", "trials": 16, "seed": 1})
    best_lr = job.config.optim.lr * 2  # an octave above where the search begins

    def octaves(trial: Trial) -> float:
        return abs(math.log2(trial.config(job.config).optim.lr / best_lr))

    ledger = Ledger(job, request.node.name, run)
    for number in range(16):
        if number == 10:
            ledger = Ledger(job, request.node.name, run)
        trial = ledger.ask()
        assert trial is not None
        ledger.epoch(number, _metrics(3, 1 - 0.1 * octaves(trial)))
        ledger.end(number, "done")
    seen = [octaves(trial) for trial in ledger.trials()]
    assert max(seen[-4:]) < 0.2
    assert max(seen[:5]) > 0.2


def test_studies_that_are_not_there_are_told(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match="no study 'nope'; the studies are: "):
        ledgers.read("nope")
    monkeypatch.setenv("RAYCLS_STUDIES", "sqlite:////dev/null/studies.db")
    with pytest.raises(StudyError, match=r"does not answer.*RAYCLS_STUDIES"):
        ledgers.read("nope")
