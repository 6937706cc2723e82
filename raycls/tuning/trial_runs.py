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
        self._experiment = tracking.experiment(spec.dataset)
        siblings = tracking.find_runs(spec.dataset, f"tags.`mlflow.parentRunId` = '{parent.id}'")
        self._found = {int(run.data.tags["trial"]): run for run in siblings}
        self._open: dict[int, EpochLogger] = {}

    def open(self, trial: Trial) -> None:
        """Begin the trial's run, or go on with it."""
        if trial.number in self._open:  # its process died, and the trial starts again
            return
        client, found = tracking.client(), self._found.get(trial.number)
        if found:
            run = tracking.Run(found.info.run_id)
            client.update_run(run.id, status="RUNNING")
            logged = frozenset(point.step for point in client.get_metric_history(run.id, "epoch"))
        else:
            tags = {
                "kind": "trial",
                "study": self._study,
                "trial": str(trial.number),
                "mlflow.parentRunId": self._parent.id,
            }
            name = f"{self._study}-{trial.number:04d}"
            run = tracking.Run(client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)
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
        tracking.client().set_terminated(run.id, "FAILED" if trial.state == "failed" else "FINISHED")

    def interrupt(self) -> None:
        """Mark those that are open as broken off, for people: a resumed study goes on with them."""
        for curves in self._open.values():
            tracking.client().set_terminated(curves.run.id, "KILLED")
