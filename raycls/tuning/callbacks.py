"""What Ray Tune calls while a study runs: which trial is next, whether to stop one, that one has reported or ended.

    callback = StudyCallback(record, task, display, Heartbeat(run), room)
    Tuner(…, tune_config=TuneConfig(search_alg=StudySearch(callback), …),
          run_config=RunConfig(stop=StudyStopper(callback), callbacks=[callback], …))

All three pass on what they hear to the study record, which writes it to Optuna's storage and to MLflow. A trial is
known by its number in Optuna, which is in its Tune configuration.
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

UNKNOWN = "perhaps for lack of memory"  # why a process died, where Ray does not say


class StudyCallback(tune.Callback):
    """Tells the study record and the display how trials end. `ended_by` is what ended the study before its last trial.

    `room` returns how many trials fit on the cluster now.
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
        self.hopeless: set[int] = set()  # running trials that StudyStopper stops
        self.ended_by: RayclsError | None = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Renew the study's sign of life. Tune calls this several times a second."""
        with suppress(Exception):  # MLflow may be out of reach for a while
            self._heart.beat()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if METRICS in result and not self.ended_by:
            self.display.epoch(trial.config["number"], result[METRICS])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial ended by itself, or was stopped."""
        number, reason = trial.config["number"], trial.last_result.get(FAILED, "")
        state = "failed" if reason else "stopped early" if number in self.hopeless else "done"
        self._close(self.record.end, number, state, reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process died."""
        self._close(self.record.died, trial.config["number"], why_died(trial.error_file))

    def all_died(self) -> None:
        """Tune itself failed: the processes of all running trials are gone."""
        for number in self.record.running:
            self._close(self.record.died, number, UNKNOWN)

    def _close(self, tell: Callable[..., Trial | None], number: int, *end: str) -> None:
        """Tell the study record of an end, unless the study is over. A trial that is to start again has not ended."""
        self.hopeless.discard(number)
        if self.ended_by:
            return
        try:
            if self.task.spec.workers_per_trial > 1:
                free(self.task.held(number))
            if ended := tell(number, *end):
                self.display.ended(ended)
                with suppress(OSError):  # its workers may still be writing; the study's end removes all
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
        if not isinstance(error, RayclsError):  # MLflow's, Optuna's, or their databases' own
            error = BrokenOffError(f"the study cannot go on: {tracking.reason_of(error)}")
        self.ended_by = error

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks into a snapshot of the experiment, which nothing reads."""
        return {}


class StudySearch(Searcher):
    """Asks the study record for the next trial."""

    def __init__(self, callback: StudyCallback):
        super().__init__()
        self._study = callback

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next trial's configuration, None while there is no room for it, FINISHED when there is none."""
        study, trial = self._study, None
        try:
            # Asked every time: nodes may join, or be lost, while the study runs.
            if len(study.record.running) >= study.room():
                return None
            if not study.ended_by:
                trial = study.record.ask()
        except Exception as error:
            study.end_study(error)
        if trial is None:
            # A trial that is running now may have to start again.
            return None if study.record.running and not study.ended_by else Searcher.FINISHED
        study.display.began(trial)
        return {"number": trial.number, "values": trial.values}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: `StudyCallback` hears of the end, with the reason."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: Optuna's storage has it all."""


class StudyStopper(tune.Stopper):
    """Stops a trial that Optuna's pruner finds hopeless, and the whole study when something has ended it."""

    def __init__(self, callback: StudyCallback):
        self._study = callback

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether to stop the trial, of which `result` is one epoch or the reason why there is none."""
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
    """Return one line of what Ray wrote about the death of a trial's process, or that it may have been the memory."""
    error = Path(error_file).read_text()
    # The process never reached the trial: something is missing there. Otherwise Ray writes a lot, and no reason.
    return error.strip().splitlines()[-1] if "creation task" in error else UNKNOWN
