"""Answers Ray Tune's calls while a study runs: choose the next trial, stop a trial, record a result or an end.

    callback = StudyCallback(record, task, display, Heartbeat(run), room)
    Tuner(…, tune_config=TuneConfig(search_alg=StudySearch(callback), …),
          run_config=RunConfig(stop=StudyStopper(callback), callbacks=[callback], …))

All three classes forward each event to the study record. The record writes it to Optuna's storage and to MLflow.
Trials are identified by their Optuna number, which is part of the Tune configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from raycls import tracking
from raycls.errors import BrokenOffError, RayclsError, StorageError, StudyError
from raycls.ray_patches.train_processes import free
from raycls.tracking.resumable import Heartbeat
from raycls.tuning.progress_table import Display
from raycls.tuning.record import StudyRecord
from raycls.tuning.spec import Trial
from raycls.tuning.trial import BROKEN_OFF, FAILED, METRICS, StudyContext

UNKNOWN = "perhaps for lack of memory"  # used when Ray gives no reason for the death of a process


class StudyCallback(tune.Callback):
    """Reports results and ends of trials to the study record and to the display.

    `room` returns how many trials fit on the cluster now. `ended_by` is the error that ended the study early, or None.
    """

    def __init__(
        self,
        record: StudyRecord,
        task: StudyContext,
        display: Display,
        heart: Heartbeat,
        room: Callable[[], int],
    ):
        self.record, self.task, self.display, self.room, self._heart = record, task, display, room, heart
        self.hopeless: set[int] = set()  # running trials that StudyStopper has decided to stop
        self.ended_by: RayclsError | None = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Renew the study's heartbeat. Tune calls this several times a second."""
        with suppress(Exception):  # a study survives a short outage of MLflow
            self._heart.beat()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if METRICS in result and not self.ended_by:
            self.display.epoch(trial.config["number"], result[METRICS])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that finished, failed with a reason, or was stopped."""
        number, reason = trial.config["number"], trial.last_result.get(FAILED, "")
        state = "failed" if reason else "stopped early" if number in self.hopeless else "done"
        self._close(self.record.end, number, state, reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that the trial's process died."""
        self._close(self.record.died, trial.config["number"], why_died(trial.error_file))

    def all_died(self) -> None:
        """Record that all running trials died. When Tune itself fails, their processes are gone."""
        for number in self.record.running:
            self._close(self.record.died, number, UNKNOWN)

    def _close(self, tell: Callable[..., Trial | None], number: int, *end: str) -> None:
        """Record an end with `tell`, unless the study is over. `tell` returns None for a trial that starts again."""
        self.hopeless.discard(number)
        if self.ended_by:
            return
        try:
            if self.task.spec.workers_per_trial > 1:
                free(self.task.held(number))
            if ended := tell(number, *end):
                self.display.ended(ended)
                with suppress(OSError):  # workers may still be writing; the end of the study removes the rest
                    self.task.store(number).remove()
                self._count_failures(ended)
        except Exception as error:
            self.end_study(error)

    def _count_failures(self, ended: Trial) -> None:
        allowed = self.task.spec.max_failures
        if ended.state != "failed" or allowed is None:
            return
        failed = sum(trial.state == "failed" for trial in self.record.trials())
        if failed > allowed:
            self.ended_by = StudyError(
                f"{failed} trials failed, --max-failures {allowed} was allowed; the last: {ended.reason}"
            )

    def end_study(self, error: Exception) -> None:
        if not isinstance(error, RayclsError):  # raised by MLflow, by Optuna, or by one of their databases
            error = BrokenOffError(f"the study cannot go on: {tracking.reason_of(error)}")
        self.ended_by = error

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state. Tune pickles its callbacks into a snapshot of the experiment, which nothing reads."""
        return {}


class StudySearch(Searcher):
    """Gives Tune the next trial of the study record."""

    def __init__(self, callback: StudyCallback):
        super().__init__()
        self._study = callback

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next trial's configuration, None while the cluster is full, or FINISHED after the last trial."""
        study, trial = self._study, None
        try:
            # The room is counted at each call, because nodes may join or leave while the study runs.
            if len(study.record.running) >= study.room():
                return None
            if not study.ended_by:
                trial = study.record.ask()
        except Exception as error:
            study.end_study(error)
        if trial is None:
            # Wait for running trials: one that dies must be started again.
            return None if study.record.running and not study.ended_by else Searcher.FINISHED
        study.display.began(trial)
        return {"number": trial.number, "values": trial.values}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing. `StudyCallback` receives the end and its reason."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing. Optuna's storage holds the state of the search."""


class StudyStopper(tune.Stopper):
    """Stops a trial when Optuna's pruner rejects it, and all trials when the study has ended."""

    def __init__(self, callback: StudyCallback):
        self._study = callback

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether to stop the trial. `result` holds the metrics of one epoch, or the reason for a failure."""
        study, number = self._study, result["config"]["number"]
        try:
            if reason := result.get(BROKEN_OFF):
                raise StorageError(reason)
            if METRICS in result and study.record.epoch(number, result[METRICS]):
                study.hopeless.add(number)
        except Exception as error:
            study.end_study(error)
            return True
        return number in study.hopeless

    def stop_all(self) -> bool:
        return self._study.ended_by is not None


def why_died(error_file: str) -> str:
    """Return one line on why a trial's process died: the reason in Ray's error file, or UNKNOWN."""
    error = Path(error_file).read_text()
    # Ray names a reason only when it could not create the process. Its other messages are long and name none.
    return error.strip().splitlines()[-1] if "creation task" in error else UNKNOWN
