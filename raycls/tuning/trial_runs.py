"""The MLflow runs of a study's trials: children of the study's run, each with its settings, its curves and its end.

    runs = TrialRunLogs(job, "pets-study", run)
    runs.open(trial)
    runs.epoch(trial.number, metrics)      # logged once, however often it is told
    runs.close(ended)

A run that an earlier attempt at the same study opened is found again by its tags and goes on.
"""

from __future__ import annotations

from raycls import tracking
from raycls.training.events import EpochLogger
from raycls.tuning.spec import StudySpec, Trial


class TrialRunLogs:
    """Knows the trial runs that are there already, by the trial's number."""

    def __init__(self, spec: StudySpec, study: str, parent: tracking.Run):
        self._spec, self._study, self._parent = spec, study, parent
        siblings = tracking.find_runs(spec.dataset, f"tags.`mlflow.parentRunId` = '{parent.id}'")
        self._found = {int(run.data.tags["trial"]): run for run in siblings}
        self._open: dict[int, EpochLogger] = {}

    def open(self, trial: Trial) -> None:
        """Begin the trial's run, or go on with it."""
        if trial.number in self._open:  # its process died, and the trial starts again
            return
        if found := self._found.get(trial.number):
            run = tracking.Run(found.info.run_id)
            logged = run.reopen()
        else:
            tags = {"kind": "trial", "study": self._study, "trial": str(trial.number)}
            name = f"{self._study}-{trial.number:04d}"
            run = tracking.start_child(self._parent, self._spec.dataset, name, tags)
            logged = frozenset()
        run.log_params({**trial.config(self._spec.trial_config).flat(), "dataset": self._spec.dataset})
        self._open[trial.number] = EpochLogger(run, logged)

    def epoch(self, number: int, metrics: dict[str, float]) -> None:
        self._open[number].add(metrics)

    def close(self, trial: Trial) -> None:
        """End the run of a trial that has ended; no harm where that was done before."""
        if curves := self._open.pop(trial.number, None):
            curves.flush()
            run = curves.run
        elif (found := self._found.get(trial.number)) and found.info.status in ("RUNNING", "KILLED"):
            run = tracking.Run(found.info.run_id)
        else:
            return
        run.tag({"state": trial.state, **({"ended": trial.reason[:500]} if trial.reason else {})})
        run.end("FAILED" if trial.state == "failed" else "FINISHED")

    def interrupt(self) -> None:
        """Mark those that are open as broken off, for people: a resumed study goes on with them."""
        for curves in self._open.values():
            curves.run.end("KILLED")
