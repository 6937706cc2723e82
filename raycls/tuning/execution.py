"""Runs a study's trials with Ray Tune: sets up the Tuner and the resources of a trial.

    execute(record, task, display, run)

Tune gives every trial a process and resources. raycls/tuning/callbacks.py tells Tune what to try and what to stop, and
it records how trials end. Tune's own snapshot of the experiment does not survive a kill (docs/architecture.md), so
Tune writes it to a temporary directory and nothing reads it.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from contextlib import redirect_stdout
from typing import Any

import ray
from ray import tune

from raycls import progress, tracking
from raycls.data.packed import PackedDataset
from raycls.errors import BrokenOffError, UsageError
from raycls.tracking.resumable import Heartbeat
from raycls.training.checkpoints import first_line
from raycls.training.failures import first_cause
from raycls.tuning.callbacks import StudyCallback, StudySearch, StudyStopper
from raycls.tuning.latency import latencies
from raycls.tuning.progress_table import Display
from raycls.tuning.record import StudyRecord
from raycls.tuning.spec import StudySpec
from raycls.tuning.trial import StudyContext, trials_of

RESTARTS = 3  # how often Tune is started again after an error in Ray
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's newer reporter prints to stdout even at verbose=0
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they write files that repeat what MLflow holds
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would mark an interrupted experiment as complete
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing reads these snapshots
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # `StudySearch.suggest` limits the number of trials
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the display prints them
}


def execute(record: StudyRecord, task: StudyContext, display: Display, run: tracking.Run) -> None:
    """Run all remaining trials of the study. `run` is the study's MLflow run, which receives the heartbeat.

    Raises StudyError after too many failed trials. Raises BrokenOffError when a checkpoint, Optuna's storage or MLflow
    cannot be written. Passes KeyboardInterrupt on.
    """
    if record.exhausted:  # interrupted after the last trial; Tune raises an error when it has no trial to run
        return
    os.environ |= SETTINGS
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the display prints the same events
    callback = StudyCallback(record, task, display, Heartbeat(run), lambda: _room(task.spec))
    for attempt in range(1 + RESTARTS):
        try:
            _run(callback, task)
            break
        except Exception as error:
            # Tune does not handle a process that Ray's memory monitor killed. The trials that were running start again.
            callback.all_died()
            if record.exhausted:
                progress.say(f"Ray failed after the last trial ({first_line(error)})")
                break
            if attempt == RESTARTS:
                raise BrokenOffError(f"Ray failed {1 + RESTARTS} times: {first_line(error)}") from error
            progress.say(f"Ray failed ({first_line(error)}); the trials that were running start again")
    if callback.ended_by:
        raise callback.ended_by


def _run(callback: StudyCallback, task: StudyContext) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="raycls-tune-", ignore_cleanup_errors=True) as folder,
        redirect_stdout(sys.stderr),
    ):
        tuner = tune.Tuner(
            tune.with_resources(trials_of(task), _resources(task.spec)),
            tune_config=tune.TuneConfig(
                search_alg=StudySearch(callback),
                num_samples=-1,  # no limit here: StudySearch ends the search
                # With several workers per trial, the trial's process owns them. They end with it, so it is not reused.
                reuse_actors=task.spec.workers_per_trial == 1,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=task.study,
                storage_path=folder,
                stop=StudyStopper(callback),
                callbacks=[callback],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial writes its own
                verbose=0,
            ),
        )
        tuner.fit()


def time_architectures(spec: StudySpec, dataset: PackedDataset) -> dict[str, float]:
    """Return `latencies` (ms by architecture), measured in a process like that of a trial. Raises as `latencies`."""
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": spec.gpus_per_trial, "max_retries": 0}
    with progress.bar("timing architectures"):
        try:
            return ray.get(ray.remote(**options)(latencies).remote(spec, dataset))
        except ray.exceptions.RayTaskError as error:
            raise first_cause(error) from None


def prestart(spec: StudySpec) -> None:
    """Start processes that import what a trial needs, while the driver opens Optuna's storage and MLflow.

    Ray reuses these processes for the trials.
    """
    if spec.workers_per_trial == 1:
        load = ray.remote(num_cpus=spec.cpus_per_trial, num_gpus=spec.gpus_per_trial, max_retries=0)(_load)
        for _ in range(min(slots(spec), spec.trials)):
            load.remote()


def _load() -> None:
    import raycls.tuning.trial  # noqa: F401


def check_room(spec: StudySpec) -> None:
    """Raise UsageError if no trial fits on the cluster. Print a line if other work holds some of its CPUs.

    GPUs that no node has yet are no reason: who asks for them may have an autoscaler that starts such nodes.
    """
    if spec.gpus_per_trial and not any(node.get("GPU", 0) for node in _nodes()):
        progress.say(
            f"no node has a GPU now: Ray is asked for {spec.gpus_per_trial:g} for each trial, and the trials wait "
            "until nodes bring them; Ctrl-C ends the study, --gpus-per-trial 0 searches on CPUs"
        )
        return
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


def _room(spec: StudySpec) -> int:
    """Return how many trials may be under way. An autoscaler starts nodes for those that do not fit."""
    return spec.at_once or max(1, slots(spec))


def slots(spec: StudySpec) -> int:
    """Return how many trials fit on the cluster's present nodes, if nothing else runs there."""
    needs = {"CPU": float(spec.cpus_per_trial)} | (
        {"GPU": spec.gpus_per_trial} if spec.gpus_per_trial else {}
    )
    workers = sum(
        min(int(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items()) for node in _nodes()
    )
    return workers // spec.workers_per_trial


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _resources(spec: StudySpec) -> tune.PlacementGroupFactory:
    if spec.workers_per_trial > 1:
        # The workers reserve their own resources. The process that waits for them needs none, but Tune requires one.
        return tune.PlacementGroupFactory([{"memory": 1}])
    bundle = {"CPU": float(spec.cpus_per_trial)}
    if spec.gpus_per_trial:
        bundle["GPU"] = spec.gpus_per_trial
    return tune.PlacementGroupFactory([bundle])


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']:04d}"
