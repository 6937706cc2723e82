"""Logs a study's trials to MLflow. Each trial has a child run of the study's run: settings, curves and end.

    runs = TrialRunLogs(spec, "pets-study", run)
    runs.open(trial)
    runs.epoch(trial.number, metrics)      # a repeated epoch is logged once
    runs.close(ended)

A run that an earlier attempt at the study opened is found by its tags and continued.
"""

from __future__ import annotations

from raycls import tracking
from raycls.training.events import EpochLogger
from raycls.tuning.spec import StudySpec, Trial


class TrialRunLogs:
    """The trial runs of one study, by trial number. Existing runs are read from MLflow at the start."""

    def __init__(self, spec: StudySpec, study: str, parent: tracking.Run):
        self._spec, self._study, self._parent = spec, study, parent
        siblings = tracking.find_runs(spec.dataset, f"tags.`mlflow.parentRunId` = '{parent.id}'")
        self._found = {int(run.data.tags["trial"]): run for run in siblings}
        self._open: dict[int, EpochLogger] = {}

    def open(self, trial: Trial) -> None:
        """Begin the trial's run, or continue it."""
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
        """End the run of a trial that has ended. A run that has ended already stays as it is."""
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
        """Mark open runs as KILLED, so that people see the interruption. A resumed study continues them."""
        for curves in self._open.values():
            curves.run.end("KILLED")
