"""Experiments: a challenger beside the champion on live traffic, from its start to its end.

    started = start("pets/7", champion="pets/6", mode="shadow", share=0.2, by="ada")
    change_share(0.5, by="ada")
    ended = stop("it answers slower", by="ada")

An experiment runs while the server's state names it (raycls/serving/state.py): the control plane keeps the challenger's
deployment as the state says, and replicas follow the state. The record is kept in experiments/ID.json below
RAYCLS_STORAGE, or below the home, also after the end.
"""

from __future__ import annotations

import secrets
from typing import Any

from pydantic import BaseModel, ConfigDict

from raycls import registry
from raycls.errors import UnknownRecordError, UsageError
from raycls.lifecycle.documents import Documents, now
from raycls.lifecycle.experiment_counts import counts_of
from raycls.serving import state
from raycls.serving.state import Experiment, Mode, ServingState

MOST_SPLIT = 0.9  # of the requests, in a split


class Record(BaseModel):
    """What is known of an experiment beside its counts, which the control plane alone writes (experiment_counts.py)."""

    model_config = ConfigDict(frozen=True)

    experiment: Experiment
    ended: str = ""
    reason: str = ""
    ended_by: str = ""

    @property
    def is_running(self) -> bool:
        return not self.ended

    def as_json(self) -> dict[str, Any]:
        """Return what people want to know: the answer of GET /experiments/ID. Raises DataError."""
        return {
            **self.experiment.model_dump(),
            "state": "running" if self.is_running else "ended",
            "ended": self.ended,
            "reason": self.reason,
            "ended_by": self.ended_by,
            **counts_of(self.experiment.id).as_json(),
        }


EXPERIMENTS = Documents("experiments", Record, "experiment")


def start(challenger: str, *, champion: str, mode: Mode, share: float, by: str) -> Experiment:
    """Begin an experiment against the served version `champion`, and return it. Both are NAME/VERSION.

    Raises UsageError where one runs already, or where the challenger is the champion or another model's version, and
    UnknownModelError.
    """
    version = registry.resolve(challenger)
    if version.reference == champion:
        raise UsageError(f"{champion} is served already: choose another version as challenger")
    if version.name != champion.partition("/")[0]:
        raise UsageError(
            f"{version.reference} is a version of another model than {champion}, which is served"
        )
    registry.checkpoint(version)  # a missing checkpoint is said now
    _check_share(mode, share)
    new = Experiment(
        id=secrets.token_hex(4),
        champion=champion,
        challenger=version.reference,
        mode=mode,
        share=share,
        started=now(),
        by=by,
    )

    def started(now: ServingState) -> ServingState:
        if now.experiment:
            raise UsageError(f"the experiment with {now.experiment.challenger} is running: end it first")
        return now.model_copy(update={"experiment": new})

    state.change(started)
    EXPERIMENTS.save(new.id, Record(experiment=new))  # `record_of` knows it without that, after a kill
    return new


def change_share(share: float, *, by: str) -> Experiment:
    """Let the running experiment have another share of the requests. Raises UsageError where none runs."""

    def changed(now: ServingState) -> ServingState:
        running = _running(now)
        _check_share(running.mode, share)
        return now.model_copy(update={"experiment": running.model_copy(update={"share": share})})

    new = _running(state.change(changed))
    EXPERIMENTS.save(new.id, record_of(new).model_copy(update={"experiment": new}))
    return new


def stop(reason: str, *, by: str, only: str | None = None) -> Record:
    """End the running experiment and return its record. only: end it only where it has this id.

    Raises UsageError where none runs.
    """
    ended: list[Experiment] = []

    def stopped(now: ServingState) -> ServingState:
        running = _running(now)
        if only not in (None, running.id):
            raise UsageError(f"the experiment {only} has ended already")
        ended[:] = [running]
        return now.model_copy(update={"experiment": None})

    state.change(stopped)
    return _ended(record_of(ended[0]), reason, by)


def close_left_open() -> None:
    """Mend what killed processes left: end the records of experiments that the server's state no longer names, and
    write the record of the one that it names."""
    left = EXPERIMENTS.all()
    running = state.load().experiment  # after the list: none that began meanwhile is in it
    if running:
        EXPERIMENTS.save(running.id, record_of(running))
    for record in left:
        if record.is_running and (running is None or running.id != record.experiment.id):
            _ended(record, "the process that ended it was killed", "raycls")


def _ended(record: Record, reason: str, by: str) -> Record:
    ended = record.model_copy(update={"ended": now(), "reason": reason, "ended_by": by})
    EXPERIMENTS.save(record.experiment.id, ended)
    return ended


def record_of(experiment: Experiment) -> Record:
    """Return the record of an experiment, also where its start was killed before the record was written."""
    try:
        return EXPERIMENTS.load(experiment.id)
    except UnknownRecordError:
        return Record(experiment=experiment)


def records() -> list[Record]:
    """Return all experiments, the newest first."""
    return sorted(EXPERIMENTS.all(), key=lambda record: record.experiment.started, reverse=True)


def _check_share(mode: Mode, share: float) -> None:
    most = {"shadow": 1.0, "split": MOST_SPLIT}[mode]
    if not 0 < share <= most:
        why = "; the guards need answers of both versions" if share > most and mode == "split" else ""
        raise UsageError(f"the share is {share:g}: give a number above 0 and up to {most:g}, like 0.2{why}")


def _running(now: ServingState) -> Experiment:
    if now.experiment is None:
        raise UsageError("no experiment is running: `raycls experiment start` begins one")
    return now.experiment
