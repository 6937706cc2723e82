"""A training run in MLflow that can be taken up again: what it was asked for, how far it came, who works on it.

    with begin(job, "cifar10-20260114-101500-3f2a") as run: …      # a new run
    with again(find("cifar10-20260114-101500-3f2a", "cifar10")) as run: …   # the same one, after it was broken off

The job is the run's artifact `config.json`; a sign of life in the tag `driver`, renewed while the run goes on, tells a
run that goes on from one whose driver was killed and could not say so. Knows nothing of Ray or of checkpoints.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycls import progress, registry
from raycls.config import Config
from raycls.data.packed import Manifest
from raycls.errors import UsageError
from raycls.processes import Leader

JOB = "config.json"
BEAT_S = 20.0  # between two signs of life
SILENCE_S = 90.0  # without one, a driver on another machine counts as dead


class Job(BaseModel):
    """All that a run was asked for: whoever resumes it does the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    fingerprint: str = Field(description="the dataset's, as it was when the run began")
    config: Config
    workers: int
    storage: str = Field(description="the Ray storage path under which the checkpoints are")
    model: str | None = Field(None, description="name to register under; none: the model is not registered")
    lineage: dict[str, str] = Field(description="further tags of the run and of the model version")
    init: str | None = Field(
        None, description="the registered model, NAME/VERSION, that the weights come from"
    )
    weights: str | None = Field(None, description="the file of weights to start from, or imagenet")


@dataclass(frozen=True)
class Former:
    """A run that was broken off. `epochs` are those already in its curves."""

    run_id: str
    name: str
    job: Job
    epochs: frozenset[int]

    def check(self, manifest: Manifest, config: Config | None) -> None:
        """Raise UsageError where the dataset is no longer the same, or a configuration asked for is another."""
        if manifest.fingerprint != self.job.fingerprint:
            raise UsageError(
                f"dataset {manifest.name} has changed since run {self.name} began (fingerprint "
                f"{self.job.fingerprint[:12]}, now {manifest.fingerprint[:12]}): prepare the former images again, or "
                "train anew without --resume"
            )
        if config is None:
            return
        now = config.flat()
        other = [
            f"{key}={now[key]} ({value} in the run)"
            for key, value in self.job.config.flat().items()
            if now[key] != value
        ]
        if other:
            raise UsageError(
                f"run {self.name} goes on with its own configuration: leave out what asks for {', '.join(other)}"
            )


def resume_command(dataset: str, name: str) -> str:
    return f"raycls train {dataset} --resume {name}"


def find(reference: str, dataset: str) -> Former:
    """The unfinished training run of the dataset that has this id or name.

    Raises UsageError when there is none, when it is finished, and when it is still running.
    """
    client = registry.client()
    experiment = client.get_experiment_by_name(dataset)
    runs = (
        client.search_runs([experiment.experiment_id], "tags.kind = 'training'", max_results=1000)
        if experiment
        else []
    )
    found = next((run for run in runs if reference in (run.info.run_id, run.info.run_name)), None)
    if found is None:
        open_runs = [run.info.run_name for run in runs if run.info.status != "FINISHED"][:5]
        raise UsageError(
            f"no training run {reference!r} of {dataset}; those not finished: {', '.join(open_runs) or 'none'}"
        )
    name = found.info.run_name
    if found.info.status == "FINISHED":
        raise UsageError(
            f"run {name} is finished: there is nothing to resume; `raycls models` lists its model"
        )
    driver = found.data.tags.get("driver")
    if found.info.status == "RUNNING" and driver and (where := _alive(driver)):
        raise UsageError(f"run {name} is still running ({where}): wait for it, or interrupt it there first")
    history = client.get_metric_history(found.info.run_id, "epoch")
    return Former(found.info.run_id, name, _job(found.info.run_id, name), frozenset(p.step for p in history))


def _job(run_id: str, name: str) -> Job:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for one small file
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = registry.client().download_artifacts(run_id, JOB, folder)
            return Job.model_validate_json(Path(path).read_text())
        except ValidationError:
            raise UsageError(
                f"run {name} was begun by another version of raycls, with other settings: resume it with that one"
            ) from None
        except Exception as error:  # MLflow's and the artifact store's own types
            raise UsageError(f"run {name} cannot be resumed: its {JOB} cannot be read ({error})") from None


@contextmanager
def begin(job: Job, name: str) -> Iterator[registry.Run]:
    """A new run, with the job kept in it. It ends as `registry.ending` says."""
    tags = {
        "kind": "training",
        "dataset_fingerprint": job.fingerprint,
        "driver": _sign(),
        **job.lineage,
    }
    created = registry.client().create_run(registry.experiment(job.dataset), run_name=name, tags=tags)
    with _resumable(registry.Run(created.info.run_id), resume_command(job.dataset, name)) as run:
        run.log_json(job.model_dump(mode="json"), JOB)
        run.log_params({**job.config.flat(), "workers": job.workers, "dataset": job.dataset})
        yield run


@contextmanager
def again(former: Former) -> Iterator[registry.Run]:
    """The same run, going on. It ends as `registry.ending` says."""
    run, client = registry.Run(former.run_id), registry.client()
    if "ended" in client.get_run(run.id).data.tags:
        client.delete_tag(run.id, "ended")
    run.tag({"driver": _sign()})
    client.update_run(run.id, status="RUNNING")
    with _resumable(run, resume_command(former.job.dataset, former.name)):
        yield run


@contextmanager
def _resumable(run: registry.Run, command: str) -> Iterator[registry.Run]:
    """`registry.ending`, and after Ctrl-C the command that goes on."""
    try:
        with registry.ending(run):
            yield run
    except KeyboardInterrupt:
        progress.say(f"go on with: {command}")
        raise


class Heart:
    """Renews the sign of life when it is due."""

    def __init__(self, run: registry.Run):
        self._run, self._last = run, time.monotonic()

    def beat(self) -> None:
        if time.monotonic() - self._last > BEAT_S:
            self._last = time.monotonic()
            self._run.tag({"driver": _sign()})


def _sign() -> str:
    own = Leader.of(os.getpid())
    return json.dumps(
        {"host": socket.gethostname(), "pid": own.pid, "started": own.started, "seen": time.time()}
    )


def _alive(sign: str) -> str:
    """Where the driver that left this sign runs, or nothing when it has ended.

    On this machine the process itself is looked at; of another machine only the sign's age is known.
    """
    driver = json.loads(sign)
    if driver["host"] == socket.gethostname():
        alive = Leader(driver["pid"], driver["started"]).alive()
    else:
        alive = time.time() - driver["seen"] < SILENCE_S
    return f"process {driver['pid']} on {driver['host']}" if alive else ""
