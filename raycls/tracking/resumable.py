"""MLflow runs that can be resumed: training runs and studies.

    with begin(job, "cifar10-20260114-101500-3f2a") as run: …      # a new run
    former = find(TrainingSpec, "cifar10-20260114-101500-3f2a", "cifar10")
    with again(former) as run: …                                   # the same run, after an interruption

The tag `job` holds the run's specification from the start. The tag `driver` names the driver process and is renewed
while the run is active. It shows whether a run is active, because a killed driver cannot end its run in MLflow.
This module knows neither Ray nor checkpoints.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raycls import home, progress, tracking
from raycls.cluster.processes import SessionLeader
from raycls.config import Config
from raycls.data.files import without_password
from raycls.data.packed import PackedDataset
from raycls.data.subsets import Subset
from raycls.data.versions import open_by_fingerprint
from raycls.errors import UsageError
from raycls.tracking.trackers import Followers, opened

JOB = "job"
FOLDS, FOLD = (
    "folds",
    "fold",
)  # tags of the training of a fold: the name of the run over all folds, and its number
# Tags of a version: the trainings of its members, the version whose settings it was trained again with, and the
# versions whose weights it is the mean of.
FOLD_RUNS, REFIT, SOUP = "fold_runs", "refit", "soup"
LONGEST_TAG = 8000  # characters: MLflow cuts off longer tags
BEAT_S = 20.0  # seconds between two renewals of the tag `driver`
SILENCE_S = 90.0  # a driver on another machine counts as dead after this time without a renewal


class RunSpec(BaseModel):
    """The full specification of a run. A resumed run uses the same one. Each kind of run has its own subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]  # the value of the tag `kind`, also used in messages
    command: ClassVar[str]  # the subcommand that starts and resumes such a run

    dataset: str
    dataset_version: int = 1
    fingerprint: str = Field(description="the dataset version's")
    config: Config
    storage: str = Field(description="the Ray storage path under which the checkpoints are")
    model: str | None = Field(None, description="name to register under; none: the model is not registered")
    init: str | None = Field(
        None, description="the registered model, NAME/VERSION, that the weights come from"
    )
    weights: str | None = Field(None, description="the file of weights to start from, or pretrained")

    @field_validator("weights")
    @classmethod
    def _now_called(cls, weights: str | None) -> str | None:
        return "pretrained" if weights == "imagenet" else weights  # as runs of an earlier raycls call it

    log: tuple[str, ...] = Field((), description="tools that the run is logged to beside MLflow")

    def params(self) -> dict[str, Any]:
        """Return the run's parameters in MLflow."""
        return {**self.config.flat(), "dataset": self.dataset, "dataset_version": self.dataset_version}

    def open_dataset(self) -> PackedDataset:
        """Return the dataset version that the run began with. Raises UnknownDatasetError if it is not here any more."""
        return open_by_fingerprint(self.dataset, self.fingerprint, self.dataset_version)

    def resume_command(self, name: str) -> str:
        """Return the shell command that resumes the run of this name."""
        return f"raycls {self.command} {self.dataset} --resume {name}"


class TrainingSpec(RunSpec):
    kind = "training"
    command = "train"

    workers: int
    lineage: dict[str, str] = Field(description="further tags of the run and of the model version")
    profile: bool = Field(False, description="whether to tell where the time of one epoch goes")
    subset: Subset | None = Field(None, description="what it learns from; none: train, and val validates")
    temperature: float = Field(
        1.0, gt=0, description="of the model, where it learns val: there it is not fitted"
    )

    def params(self) -> dict[str, Any]:
        return {**super().params(), "workers": self.workers}

    def resume_command(self, name: str) -> str:
        return super().resume_command(self.lineage.get(FOLDS, name))


class FoldsSpec(RunSpec):
    kind = "folds"
    command = "train"

    folds: int = Field(ge=2, description="parts of train and val; each validates a model of the others")

    def params(self) -> dict[str, Any]:
        return {**super().params(), "folds": self.folds}


AnySpec = TypeVar("AnySpec", bound=RunSpec)


@dataclass(frozen=True)
class UnfinishedRun(Generic[AnySpec]):
    """An interrupted run. `epochs`: the epochs that are already in MLflow."""

    run_id: str
    name: str
    spec: AnySpec
    epochs: frozenset[int]


def find(kind: type[AnySpec], reference: str, dataset: str) -> UnfinishedRun[AnySpec]:
    """Return the dataset's unfinished run of this kind with this id or name.

    Raises UsageError if there is no such run, if it is finished or still running, and if another version of raycls
    started it with other settings.
    """
    runs = tracking.find_runs(dataset, f"tags.kind = '{kind.kind}'")
    found = next((run for run in runs if reference in (run.info.run_id, run.info.run_name)), None)
    if found is None:
        open_runs = [run.info.run_name for run in runs if run.info.status != "FINISHED"][:5]
        raise UsageError(
            f"no {kind.kind} run {reference!r} of {dataset}; those not finished: {', '.join(open_runs) or 'none'}"
        )
    name = found.info.run_name
    if found.info.status == "FINISHED":
        raise UsageError(
            f"run {name} is finished: there is nothing to resume; `raycls models` lists its model"
        )
    driver = found.data.tags.get("driver")
    if found.info.status == "RUNNING" and driver and (where := _alive(driver)):
        raise UsageError(f"run {name} is still running ({where}): wait for it, or interrupt it there first")
    try:
        spec = kind.model_validate_json(found.data.tags.get(JOB, ""))
    except ValidationError:
        raise UsageError(
            f"run {name} was begun by another version of raycls, with other settings: resume it with that one"
        ) from None
    if without_password(storage := home.storage()) == spec.storage:
        spec = spec.model_copy(update={"storage": storage})
    history = tracking.client().get_metric_history(found.info.run_id, "epoch")
    return UnfinishedRun(found.info.run_id, name, spec, frozenset(p.step for p in history))


def exists(kind: type[RunSpec], reference: str, dataset: str) -> bool:
    """Return whether the dataset has a run of this kind and name, or id."""
    runs = tracking.find_runs(dataset, f"tags.kind = '{kind.kind}'")
    return any(reference in (run.info.run_id, run.info.run_name) for run in runs)


def tagged(dataset: str, tags: dict[str, str]) -> list[Any]:
    """Return the training runs with these tags, such as the `study` of a study's winner. The latest come first."""
    wanted = "".join(f" and tags.{tag} = '{value}'" for tag, value in tags.items())
    return tracking.find_runs(dataset, f"tags.kind = '{TrainingSpec.kind}'{wanted}")


def spec_of(kind: type[AnySpec], run_id: str) -> AnySpec:
    """Return what a run began with. Raises UsageError where the run is gone, or is none of this kind."""
    found = tracking.find_run(run_id)
    try:
        return kind.model_validate_json(found.data.tags.get(JOB, "") if found else "")
    except ValidationError:
        raise UsageError(
            f"MLflow has no settings of a {kind.kind} in run {run_id}: begin a new one with this version of raycls"
        ) from None


@contextmanager
def begin(spec: RunSpec, name: str, tags: dict[str, str]) -> Iterator[tracking.Run]:
    """Create a run that stores its specification. Yield the run, and end it as `tracking.ending` does.

    Raises UsageError if the specification is too long for an MLflow tag.
    """
    # Anyone who may read MLflow sees the tag, so it has no password.
    written = spec.model_copy(update={"storage": without_password(spec.storage)}).model_dump_json()
    if len(written) > LONGEST_TAG:
        raise UsageError(
            f"what was asked for takes {len(written)} characters to write down; MLflow keeps {LONGEST_TAG}"
        )
    # Before the run is in MLflow: where a tool takes no run, none is left there.
    followers = _followers(spec, name, tags)
    try:
        created = tracking.client().create_run(
            tracking.experiment(spec.dataset),
            run_name=name,
            tags={
                "kind": spec.kind,
                "dataset_version": str(spec.dataset_version),
                "dataset_fingerprint": spec.fingerprint,
                "driver": _sign(),
                JOB: written,
                **followers.ids(),
                **tags,
            },
        )
    except BaseException:
        followers.tell(lambda each: each.end("FAILED"))
        raise
    with _resumable(tracking.Run(created.info.run_id, followers), spec.resume_command(name)) as run:
        run.log_params(spec.params())
        yield run


@contextmanager
def again(former: UnfinishedRun[Any]) -> Iterator[tracking.Run]:
    """Set an interrupted run to RUNNING. Yield the run, and end it as `tracking.ending` does."""
    client = tracking.client()
    tags = client.get_run(former.run_id).data.tags
    run = tracking.Run(former.run_id, _followers(former.spec, former.name, tags))
    if "ended" in tags:
        client.delete_tag(run.id, "ended")
    run.tag({"driver": _sign()})
    client.update_run(run.id, status="RUNNING")
    with _resumable(run, former.spec.resume_command(former.name)):
        run.log_params(former.spec.params())  # the first driver may have been killed before it logged them
        yield run


def _followers(spec: RunSpec, name: str, tags: dict[str, str]) -> Followers:
    """Return the tools that follow the run. tags: with the run's id in each tool, where it is resumed."""
    ids = {tool: tags.get(tool) for tool in spec.log}
    group = tags.get("study") or (name if spec.kind == "study" else None)
    return opened(ids, project=spec.dataset, name=name, group=group)


@contextmanager
def _resumable(run: tracking.Run, command: str) -> Iterator[tracking.Run]:
    """End the run as `tracking.ending` does. After Ctrl-C, also print the command that resumes it."""
    try:
        with tracking.ending(run):
            yield run
    except KeyboardInterrupt:
        progress.say(f"go on with: {command}")
        raise


class Heartbeat:
    """Renews the run's tag `driver` at most once every BEAT_S."""

    def __init__(self, run: tracking.Run):
        self._run, self._last = run, time.monotonic()

    def beat(self) -> None:
        """Renew the tag if BEAT_S have passed."""
        if time.monotonic() - self._last > BEAT_S:
            self._last = time.monotonic()
            self._run.tag({"driver": _sign()})


def _sign() -> str:
    """Return the value of the tag `driver` for this process: JSON of host, pid, birth and current time."""
    own = SessionLeader.of(os.getpid())
    return json.dumps({"host": socket.gethostname(), "pid": own.pid, "born": own.born, "seen": time.time()})


def _alive(sign: str) -> str:
    """Return the process and host of the driver that wrote this tag, or "" if it has ended.

    On this machine, the process itself is checked. For another machine, and for a tag of an older raycls, which tells
    no birth, only the tag's age is known.
    """
    driver = json.loads(sign)
    if driver["host"] == socket.gethostname() and "born" in driver:
        alive = SessionLeader(driver["pid"], driver["born"]).alive()
    else:
        alive = time.time() - driver["seen"] < SILENCE_S
    return f"process {driver['pid']} on {driver['host']}" if alive else ""
