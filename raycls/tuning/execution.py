"""A study on Ray Tune: where trials run, how many at once, what becomes of those whose process dies.

    execute(ledger, task, display, run)

Tune gives trials processes and resources; what is tried and what is stopped, the ledger says. So Tune's own record of
an experiment holds nothing that a study needs: it lies in a temporary directory.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory, Stopper
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from raycls import progress, tracking
from raycls.data.packed import PackedDataset
from raycls.errors import BrokenOffError, RayclsError, StorageError, StudyError, UsageError
from raycls.ray_patches.train_processes import free
from raycls.tracking.resumable import Heartbeat
from raycls.training.checkpoints import first_line
from raycls.training.failures import first_cause
from raycls.tuning.pareto import latencies
from raycls.tuning.progress_table import Display
from raycls.tuning.record import StudyRecord
from raycls.tuning.spec import StudySpec, Trial
from raycls.tuning.trial import BROKEN_OFF, FAILED, METRICS, StudyContext, trials_of

RESTARTS = 3  # of Tune itself, after an error of Ray's own
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's newer reporter prints to stdout even at verbose=0
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they write what MLflow has already
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it ends an experiment as if it were complete
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing reads them
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # `TrialSearcher.suggest` says how many there are
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the display tells them
}


def execute(record: StudyRecord, task: StudyContext, display: Display, run: tracking.Run) -> None:
    """Run the study's trials to the last; `run` is the study's, which shows that it goes on.

    Raises StudyError after too many failures, BrokenOffError where a trial or a book cannot be written,
    KeyboardInterrupt.
    """
    if record.exhausted:  # broken off after the last trial: Tune takes nothing to do for an error
        return
    os.environ |= SETTINGS
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it logs what the display tells
    conductor = TrialSearcher(record, task, display, Heartbeat(run))
    for attempt in range(1 + RESTARTS):
        try:
            _run(conductor, task)
            break
        except Exception as error:
            # Ray's memory monitor ends a process in a way that Tune does not know. Running trials are asked for again.
            conductor.all_died()
            if record.exhausted:
                progress.say(f"Ray failed after the last trial ({first_line(error)})")
                break
            if attempt == RESTARTS:
                raise BrokenOffError(f"Ray failed {1 + RESTARTS} times: {first_line(error)}") from error
            progress.say(f"Ray failed ({first_line(error)}); the trials that were running start again")
    if conductor.ended_by:
        raise conductor.ended_by


def _run(conductor: TrialSearcher, task: StudyContext) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="raycls-tune-", ignore_cleanup_errors=True) as folder,
        redirect_stdout(sys.stderr),
    ):
        tune.run(
            trials_of(task),
            name=task.study,
            storage_path=folder,
            num_samples=-1,
            search_alg=conductor,
            stop=conductor,
            scheduler=conductor.deaths,
            resources_per_trial=_resources(task.spec),
            # The process of a trial with workers of its own is their owner: when it ends, so do they.
            reuse_actors=task.spec.workers_per_trial == 1,
            max_failures=0,  # the ledger counts deaths
            raise_on_failed_trial=False,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            verbose=0,
        )


def time_architectures(spec: StudySpec, dataset: PackedDataset) -> dict[str, float]:
    """`latencies`, ms by architecture, measured in a process such as a trial's. Raises as that does."""
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": spec.gpus_per_trial, "max_retries": 0}
    with progress.bar("timing architectures"):
        try:
            return ray.get(ray.remote(**options)(latencies).remote(spec, dataset))
        except ray.exceptions.RayTaskError as error:
            raise first_cause(error) from None


def prestart(spec: StudySpec) -> None:
    """Have processes import what a trial needs, while the study's books are opened; Ray makes them the trials'."""
    if spec.workers_per_trial == 1:
        load = ray.remote(num_cpus=spec.cpus_per_trial, num_gpus=spec.gpus_per_trial, max_retries=0)(_load)
        for _ in range(min(slots(spec), spec.trials)):
            load.remote()


def _load() -> None:
    import raycls.tuning.trial  # noqa: F401


def check_room(spec: StudySpec) -> None:
    """Raise UsageError where not a single trial fits on the cluster; say so where others hold part of it."""
    if not slots(spec):
        needs = (
            f"{spec.workers_per_trial} × {spec.cpus_per_trial} CPUs"
            if spec.workers_per_trial > 1
            else (f"{spec.cpus_per_trial} CPUs")
        )
        gpus = f" and {spec.gpus_per_trial:g} GPUs each" if spec.gpus_per_trial else ""
        nodes = ", ".join(
            f"{node.get('CPU', 0):g} CPUs" + (f" and {node['GPU']:g} GPUs" if "GPU" in node else "")
            for node in _nodes()
        )
        raise UsageError(
            f"a trial needs {needs}{gpus}, the cluster's nodes have {nodes}: "
            "lower --workers-per-trial, --cpus-per-trial or --gpus-per-trial"
        )
    total, free = (where.get("CPU", 0) for where in (ray.cluster_resources(), ray.available_resources()))
    if free < total:
        progress.say(
            f"{free:g} of the cluster's {total:g} CPUs are free: other work, like serving, holds the rest, and trials "
            "wait for it"
        )


def slots(spec: StudySpec) -> int:
    """How many trials fit on the cluster as it is now, were nothing else on it."""
    needs = {"CPU": float(spec.cpus_per_trial)} | (
        {"GPU": spec.gpus_per_trial} if spec.gpus_per_trial else {}
    )
    workers = sum(
        min(int(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items()) for node in _nodes()
    )
    return workers // spec.workers_per_trial


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _resources(spec: StudySpec) -> PlacementGroupFactory:
    if spec.workers_per_trial > 1:
        # Its workers have resources of their own. The process that waits for them takes none, but Tune wants a figure.
        return PlacementGroupFactory([{"memory": 1}])
    bundle = {"CPU": float(spec.cpus_per_trial)}
    if spec.gpus_per_trial:
        bundle["GPU"] = spec.gpus_per_trial
    return PlacementGroupFactory([bundle])


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']:04d}"


class TrialFailures(FIFOScheduler):
    """Why the processes of trials died, by Tune's id: Tune tells nobody else. It schedules nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._reasons: dict[str, str] = {}

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = Path(trial.error_file).read_text()
        # It never came to the trial: something is missing there. Else Ray says a lot, and not why.
        if "creation task" in error:
            self._reasons[trial.trial_id] = error.strip().splitlines()[-1]

    def take(self, trial_id: str) -> str:
        return self._reasons.pop(trial_id, "perhaps for lack of memory")


class TrialSearcher(Searcher, Stopper):
    """What Tune asks for trials, tells of epochs, and tells of ends; it passes all of that on to the ledger.

    Tune knows a trial by an id of its own. `ended_by` is what ended the study before its last trial. `deaths` is told
    first why a process died.
    """

    def __init__(self, record: StudyRecord, task: StudyContext, display: Display, heart: Heartbeat):
        super().__init__()
        self._record, self._task, self._display, self._heart = record, task, display, heart
        self._running: dict[str, int] = {}
        self._outcome: dict[int, tuple[Any, str]] = {}  # of trials that are about to end: state, reason
        self.ended_by: RayclsError | None = None
        self.deaths = TrialFailures()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial; None while there is no room for it; FINISHED when there is none."""
        try:
            # Asked every time: nodes may join, or be lost, while the study runs.
            if len(self._running) >= slots(self._task.spec):
                return None
            trial = None if self.ended_by else self._record.ask()
        except Exception as error:
            self._end_study(error)
            trial = None
        if trial is None:
            # One that is running now may have to start again.
            return None if self._running and not self.ended_by else Searcher.FINISHED
        self._running[trial_id] = trial.number
        self._display.began(trial)
        return {"number": trial.number, "values": trial.values}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """An epoch of a trial, or why there is none: whether the trial is to be stopped."""
        number = self._running[trial_id]
        if reason := result.get(BROKEN_OFF):
            self._end_study(StorageError(reason))
        elif reason := result.get(FAILED):
            self._outcome[number] = ("failed", reason)
        elif metrics := result.get(METRICS):
            try:
                hopeless = self._record.epoch(number, metrics)
            except Exception as error:
                self._end_study(error)
                return True
            self._display.epoch(number, metrics)
            if hopeless:
                self._outcome[number] = ("stopped early", "")
            return hopeless
        return False

    def stop_all(self) -> bool:
        """Whether the study is to end now. Asked several times a second."""
        with suppress(Exception):  # MLflow may be out of reach for a while
            self._heart.beat()
        return self.ended_by is not None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """A trial has ended: by itself, stopped, or (error) because its process died."""
        number = self._running.pop(trial_id)
        if self.ended_by:
            return
        try:
            if self._task.spec.workers_per_trial > 1:
                free(self._task.held(number))
            if error:
                ended = self._record.died(number, self.deaths.take(trial_id))
            else:
                ended = self._record.end(number, *self._outcome.pop(number, ("done", "")))
            if ended:
                self._display.ended(ended)
                with suppress(
                    OSError
                ):  # workers of its own may still be writing; the study's end removes all
                    self._task.store(number).remove()
                self._count_failures(ended)
        except Exception as trouble:
            self._end_study(trouble)

    def all_died(self) -> None:
        """Tune itself has failed, and the processes of all running trials are gone."""
        for trial_id in list(self._running):
            self.on_trial_complete(trial_id, error=True)

    def _count_failures(self, ended: Trial) -> None:
        allowed = self._task.spec.max_failures
        if ended.state != "failed" or allowed is None:
            return
        failed = sum(trial.state == "failed" for trial in self._record.trials())
        if failed > allowed:
            self.ended_by = StudyError(
                f"{failed} trials failed, --max-failures {allowed} was allowed; the last: {ended.reason}"
            )

    def _end_study(self, error: Exception) -> None:
        if not isinstance(error, RayclsError):  # MLflow's, Optuna's, or their databases' own
            error = BrokenOffError(f"the study cannot go on: {tracking.reason_of(error)}")
        self.ended_by = error

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles who stops its trials into its record of the experiment, which nothing reads."""
        return {}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the ledger's books hold it all."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study goes on from its ledger")
