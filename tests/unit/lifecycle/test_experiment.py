"""Experiments as records: one at a time, started, changed, counted, ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycls.errors import UnknownRecordError, UsageError
from raycls.lifecycle import experiment, experiment_counts, replica_counts
from raycls.lifecycle.experiment import Record
from raycls.lifecycle.experiment_counts import Arm, Counts
from raycls.serving import state
from raycls.serving.replica.arm_counts import ArmCounts, ExperimentCounts
from raycls.serving.state import Experiment


def _running(share: float = 0.2) -> Experiment:
    """An experiment whose versions were not looked up: `start` needs a registry (tests/stories/test_experiment.py)."""
    new = Experiment(
        id="a1b2c3d4",
        champion="pets/6",
        challenger="pets/7",
        mode="split",
        share=share,
        started="2026-01-01",
        by="ada",
    )
    experiment.EXPERIMENTS.save(new.id, Record(experiment=new))
    state.change(lambda now: now.model_copy(update={"experiment": new}))
    return new


def _counts(replica: str, identifier: str = "a1b2c3d4") -> dict[str, Any]:
    counts = ExperimentCounts(identifier, 2, 2)
    counts.champion.requests, counts.challenger.requests = 30, 10
    counts.champion.seconds[3], counts.challenger.seconds[6] = 30, 10
    counts.challenger.failed("late")
    counts.agreed, counts.disagreed = 6, 2
    return counts.as_json() | {"replica": replica, "disagreements": []}


def test_the_state_follows_an_experiment_to_its_end(home: Path) -> None:
    started = _running()
    changed = experiment.change_share(0.5, by="bob")
    assert state.load().experiment == changed
    assert (changed.id, changed.share) == (started.id, 0.5)
    with pytest.raises(UsageError, match=r"above 0 and up to 0\.9"):
        experiment.change_share(1.5, by="bob")
    ended = experiment.stop("seen enough", by="bob")
    assert state.load().experiment is None
    assert experiment.EXPERIMENTS.load(started.id) == ended
    assert (ended.reason, ended.ended_by, ended.experiment.share, ended.is_running) == (
        "seen enough",
        "bob",
        0.5,
        False,
    )
    for action in (
        lambda: experiment.stop("again", by="bob"),
        lambda: experiment.change_share(0.1, by="bob"),
    ):
        with pytest.raises(UsageError, match="no experiment is running"):
            action()


def test_only_the_experiment_that_was_meant_is_ended(home: Path) -> None:
    started = _running()
    with pytest.raises(UsageError, match="the experiment ffff has ended already"):
        experiment.stop("it failed", by="raycls", only="ffff")
    assert state.load().experiment == started


def test_counts_of_replicas_are_added_and_those_that_are_gone_stay(home: Path) -> None:
    started = _running()
    counts = Counts().with_counts(started.id, [_counts("a"), _counts("b"), _counts("c", "ffffffff")])
    counts = counts.with_counts(started.id, [_counts("b"), _counts("d")])
    experiment_counts.save(started.id, counts)
    (record,) = experiment.records()
    shown = record.as_json()
    assert shown["arms"]["champion"]["requests"] == 90
    assert shown["arms"]["challenger"]["requests"] == 33  # answered or failed
    assert shown["arms"]["challenger"]["failures"] == {"late": 3}
    assert shown["compared"] == 24
    assert shown["agreement"] == 0.75


def test_counts_of_many_replicas_that_are_gone_become_one_sum(home: Path) -> None:
    started, many, apart = _running(), Counts(), []
    for replica in range(200):
        newest = _counts(f"r{replica}")
        many, apart = many.with_counts(started.id, [newest]), [*apart, newest]
    assert len(many.replicas) <= replica_counts.MOST
    for arm in ("champion", "challenger"):
        assert many.arm(arm) == Arm.of([each[arm] for each in apart])
    assert many.as_json()["compared"] == 200 * 8


def test_a_start_that_is_refused_leaves_no_record(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = _running()
    version = SimpleNamespace(name="pets", reference="pets/8")
    monkeypatch.setattr(experiment.registry, "resolve", lambda reference: version)
    monkeypatch.setattr(experiment.registry, "checkpoint", lambda version: Path())
    with pytest.raises(UsageError, match="is running: end it first"):
        experiment.start("pets/8", champion="pets/6", mode="shadow", share=0.2, by="ada")
    assert [record.experiment.id for record in experiment.records()] == [started.id]


def test_records_that_a_killed_process_left_open_are_ended(home: Path) -> None:
    started = _running()
    experiment.close_left_open()
    (record,) = experiment.records()
    assert record.is_running
    state.change(lambda now: now.model_copy(update={"experiment": None}))
    experiment.close_left_open()
    (record,) = experiment.records()
    assert (record.is_running, record.reason) == (False, "the process that ended it was killed")
    assert record.experiment == started


def test_an_experiment_whose_record_a_kill_left_out_can_be_ended(home: Path) -> None:
    started = _running()
    (home / "experiments" / f"{started.id}.json").unlink()
    assert experiment.stop("seen enough", by="bob").reason == "seen enough"
    (record,) = experiment.records()
    assert (record.experiment, record.is_running) == (started, False)


def test_an_end_while_counts_are_collected_stays_an_end(home: Path) -> None:
    started = _running()
    counts = experiment_counts.counts_of(started.id).with_counts(started.id, [_counts("a")])
    experiment.stop("seen enough", by="bob")  # between the control plane's reading and its writing
    experiment_counts.save(started.id, counts)
    (record,) = experiment.records()
    assert (record.is_running, record.reason) == (False, "seen enough")
    assert record.as_json()["compared"] == 8


def test_quantiles_are_in_ms() -> None:
    counts = ArmCounts(2)
    for seconds in [0.0004] * 50 + [0.002] * 45 + [0.2] * 5:
        counts.answered([], seconds)
    arm = Arm.of([counts.as_json()])
    assert arm.quantile_ms(0.5) == pytest.approx(0.5)
    assert 1 < (arm.quantile_ms(0.9) or 0) < 2.5
    assert 100 < (arm.quantile_ms(0.99) or 0) < 250
    assert Arm().quantile_ms(0.5) is None


@pytest.mark.parametrize("identifier", ["zzz", "../state", ""])
def test_an_unknown_id_is_said(home: Path, identifier: str) -> None:
    with pytest.raises(UnknownRecordError, match="there is no experiment"):
        experiment.EXPERIMENTS.load(identifier)
