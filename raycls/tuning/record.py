"""Records a study's trials in Optuna's storage and in MLflow.

    record = StudyRecord(spec, name, run)
    trial = record.ask()                         # the next trial, or None after the last one
    stop = record.epoch(trial.number, metrics)   # True: the trial is hopeless, stop it
    record.end(trial.number, "done")
    record.trials()

Optuna decides what to try and what to stop early. MLflow shows the trials to people. Each trial appears exactly once in
each of them, even if a process is killed. An end is written to Optuna first. When an interrupted study is resumed, its
StudyRecord brings MLflow up to date with Optuna, and trials that were running start again under the same number.
This module knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from raycls import tracking
from raycls.errors import StudyError
from raycls.metrics import oriented
from raycls.tuning.optuna_study import GIVEN, RUN, open_storage, open_study
from raycls.tuning.space import architecture, configured, suggest
from raycls.tuning.spec import METRIC, State, StudySpec, Trial
from raycls.tuning.trial_runs import TrialRunLogs

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

RETRIES = 2  # how often an epoch is tried again after the trial's process died in it
# Attributes of trials and studies in Optuna's storage.
CURVE, LATENCY, LATENCIES = "val_accuracy", "latency_ms", "latencies"
HOPELESS, DEATHS, WINNER, SCORED_BY = "hopeless", "deaths_in_epoch", "winner", "metric"
_STATES: dict[str, State] = {
    "WAITING": "waiting",
    "RUNNING": "running",
    "COMPLETE": "done",
    "PRUNED": "stopped early",
    "FAIL": "failed",
}


class StudyRecord:
    """The record of one study. `run` is its MLflow run. Raises StudyError if Optuna's storage does not answer."""

    def __init__(self, spec: StudySpec, name: str, run: tracking.Run):
        self.spec = spec
        self._storage = open_storage()
        self._study = open_study(self._storage, spec, name, run.id)
        self._runs = TrialRunLogs(spec, name, run)
        self._running: dict[int, optuna.Trial] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                self._runs.close(_trial(trial))
            elif trial.state.name == "RUNNING":
                self._ask_again(trial.number)

    def time_once(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return the latency of every architecture in ms. It is measured once per study and then stored."""
        if LATENCIES not in self._study.user_attrs:
            self._study.set_user_attr(LATENCIES, measure())
        return self._study.user_attrs[LATENCIES]

    @property
    def running(self) -> tuple[int, ...]:
        """Return the numbers of the trials that have started and have not ended."""
        return tuple(self._running)

    @property
    def exhausted(self) -> bool:
        """Return whether every trial of the study has started."""
        frozen = self._study.get_trials(deepcopy=False)
        if any(trial.state.name == "WAITING" for trial in frozen):
            return False
        return len(frozen) >= self.spec.trials or self.spec.search == "grid"

    def ask(self) -> Trial | None:
        """Start and return the next trial, or None after the last.

        A waiting trial goes before a new one. It may have epochs from an earlier attempt.
        """
        if self.exhausted:
            return None
        asked = self._study.ask()
        values = suggest(asked, self.spec.space)
        asked.set_user_attr(SCORED_BY, self.spec.metric)
        if self.spec.timed:
            made = architecture(configured(self.spec.config, values))
            asked.set_user_attr(LATENCY, self._study.user_attrs[LATENCIES][made])
        self._running[asked.number] = asked
        trial = self._trial(asked.number)
        self._runs.open(trial)
        return trial

    def epoch(self, number: int, metrics: dict[str, float]) -> bool:
        """Record an epoch of a running trial, once. Return whether to stop the trial."""
        trial, epoch = self._running[number], int(metrics["epoch"])
        self._runs.epoch(number, metrics)
        curve = _curve(self._frozen(number))
        if epoch not in curve:
            score = oriented(self.spec.metric, metrics[self.spec.metric])
            trial.set_user_attr("train_seconds", metrics["train_seconds"])
            if self.spec.timed:  # Optuna accepts no intermediate values for two objectives
                trial.set_user_attr(CURVE, {**curve, epoch: score})
            else:
                trial.report(score, epoch)
        if self.spec.timed or epoch >= self.spec.max_epochs:
            return False
        # The pruner is asked once per epoch, because it stores what it has seen.
        if epoch not in curve and trial.should_prune():
            trial.set_user_attr(HOPELESS, True)
        return trial.user_attrs.get(HOPELESS, False)

    def died(self, number: int, reason: str) -> Trial | None:
        """Record that a running trial's process died. Return the trial if it has failed, or None if it starts again.

        A trial fails when it dies more than RETRIES times in the same epoch. A trial that makes progress
        between two deaths starts again each time, because its configuration is probably not the cause.
        """
        trial = self._running[number]
        epoch = 1 + max(_curve(self._frozen(number)), default=0)
        last, deaths = trial.user_attrs.get(DEATHS, (epoch, 0))
        deaths = 1 + (deaths if last == epoch else 0)
        if deaths > RETRIES:
            return self.end(number, "failed", f"its process died {deaths} times in epoch {epoch}: {reason}")
        trial.set_user_attr(DEATHS, (epoch, deaths))
        del self._running[number]
        self._ask_again(number)
        return None

    def end(self, number: int, state: Literal["done", "stopped early", "failed"], reason: str = "") -> Trial:
        """Record the end of a running trial and return it. `reason` says why it failed."""
        from optuna.trial import TrialState

        trial, reported = self._running.pop(number), _curve(self._frozen(number))
        if not reported and state != "failed":
            state, reason = "failed", "it ended before its first epoch did"
        if reason:
            trial.set_user_attr("reason", reason[:2000])
        if state == "done":
            values = [max(reported.values())]
            if self.spec.timed:
                values.append(trial.user_attrs[LATENCY])
            self._study.tell(trial, values)
        else:
            self._study.tell(trial, state=TrialState.FAIL if state == "failed" else TrialState.PRUNED)
        ended = self._trial(number)
        self._runs.close(ended)
        return ended

    def trials(self) -> tuple[Trial, ...]:
        """Return every trial so far, ordered by number."""
        return trials_of(self._study)

    def choose(self, winner: Trial) -> None:
        """Record which trial is trained in full."""
        self._study.set_user_attr(WINNER, winner.number)

    def interrupt(self) -> None:
        """Record that the study was interrupted."""
        self._runs.interrupt()

    def _ask_again(self, number: int) -> None:
        """Put a running trial back into Optuna's queue. It keeps its number and its values."""
        from optuna.trial import TrialState

        study = self._storage.get_study_id_from_name(self._study.study_name)
        trial = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        self._storage.set_trial_state_values(trial, TrialState.WAITING)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, number: int) -> Trial:
        return _trial(self._frozen(number))


def read(name: str) -> tuple[Trial, ...]:
    """Return the trials of the study with this name. Raises StudyError as `load`."""
    return trials_of(load(name))


def load(name: str) -> optuna.Study:
    """Return the study with this name, for reading. Raises StudyError that lists the existing studies."""
    import optuna

    storage = open_storage()
    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise StudyError(f"no study {name!r}; the studies are: {', '.join(names) or 'none yet'}")
    return optuna.load_study(study_name=name, storage=storage)


def run_of(study: optuna.Study) -> str:
    """Return the id of the study's MLflow run; empty for a moment after its start."""
    run_id: str = study.user_attrs.get(RUN, "")
    return run_id


def winner_of(study: optuna.Study) -> Trial | None:
    """Return the trial that was chosen for the full training, or None while the search runs."""
    number = study.user_attrs.get(WINNER)
    return None if number is None else trials_of(study)[number]


def trials_of(study: optuna.Study) -> tuple[Trial, ...]:
    """Return every trial so far, ordered by number."""
    return tuple(_trial(trial) for trial in study.get_trials(deepcopy=False))


def _curve(trial: FrozenTrial) -> dict[int, float]:
    """Return the score by epoch."""
    if trial.intermediate_values:
        return trial.intermediate_values
    return {int(epoch): value for epoch, value in trial.user_attrs.get(CURVE, {}).items()}


def _trial(trial: FrozenTrial) -> Trial:
    curve = _curve(trial)
    return Trial(
        number=trial.number,
        state=_STATES[trial.state.name],
        values=dict(trial.params),
        score=max(curve.values()) if curve else None,
        epochs=max(curve, default=0),
        seconds=trial.user_attrs.get("train_seconds", 0.0),
        asked_at=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
        ended_at=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        latency_ms=trial.user_attrs.get(LATENCY),
        metric=trial.user_attrs.get(SCORED_BY, METRIC),
        given=trial.user_attrs.get(GIVEN, False),
        reason=trial.user_attrs.get("reason", ""),
    )
