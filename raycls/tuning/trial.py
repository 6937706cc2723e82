"""Runs trials in a trial's process: one after another, epoch by epoch, each from its last checkpoint.

    trainable = trials_of(StudyContext(spec=spec, study=name, dataset=dataset, init=None))

A trial is a Tune class trainable, and one `step` is one epoch. The training runs in the main thread. The process stays
for the next trial, so it imports torch once and maps the dataset once. When a trial fails, its result gives the reason
and the trial ends, because a second try would fail too. A trial starts again only if its process died.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from ray.tune import Trainable

from raycls import registry
from raycls.config import Config
from raycls.data.packed import PackedDataset
from raycls.data.resized import at_size
from raycls.data.versions import on_this_node
from raycls.engines.memory import out_of_memory
from raycls.errors import RayclsError, StorageError
from raycls.ray_patches.train_processes import free
from raycls.tracking.resumable import TrainingSpec
from raycls.training import loop, within
from raycls.training.checkpoints import CheckpointStore, first_line
from raycls.training.failures import check_unchanged
from raycls.training.trainer import run_workers
from raycls.tuning.space import configured
from raycls.tuning.spec import StudySpec

METRICS, FAILED, BROKEN_OFF = (
    "metrics",
    "failed",
    "broken_off",
)  # a result has one of these keys: metrics, or the reason for an end


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """The data that all trials of a study share."""

    spec: StudySpec
    study: str
    dataset: PackedDataset
    init: registry.ModelVersion | None

    def store(self, number: int) -> CheckpointStore:
        """Return the store of a running trial's latest checkpoint."""
        return CheckpointStore(self.spec.storage, f"{study_directory(self.study)}/trial-{number:04d}")

    def held(self, number: int) -> str:
        """Return the name under which a trial's workers hold their resources."""
        return f"{self.study}/{number}"


def study_directory(study: str) -> str:
    """Return the folder of a study's checkpoints, relative to the storage path."""
    return f"studies/{study}"


def trials_of(task: StudyContext) -> type[Trainable]:
    """Return the trainable class of one study. A trial's Tune configuration holds its number and its values."""
    # Tune registers classes by name for the whole cluster, so each study needs its own name.
    return type(f"trial_of_{task.study}", (TrialTrainable,), {"task": task})


class TrialTrainable(Trainable):
    task: StudyContext

    def setup(self, config: dict[str, Any]) -> None:
        self._number = int(config["number"])
        self._config = configured(self.task.spec.trial_config, config["values"])
        self._results = _alone if self.task.spec.workers_per_trial == 1 else _with_workers
        self._epochs = self._results(self.task, self._number, self._config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the metrics of one epoch, or the reason for a failure."""
        try:
            return next(self._epochs, {"done": True})
        except StorageError as error:
            return {BROKEN_OFF: str(error), "done": True}
        except Exception as error:
            return {FAILED: reason_of(error), "done": True}

    def cleanup(self) -> None:
        self._epochs.close()


def reason_of(error: Exception) -> str:
    """Return one line that says why a trial failed."""
    if out_of_memory(error):
        return f"out of memory: {first_line(error)}"
    return str(error) if isinstance(error, RayclsError) else f"{type(error).__name__}: {first_line(error)}"


def _alone(task: StudyContext, number: int, config: Config) -> Generator[dict[str, Any]]:
    """Yield a result per epoch from the training loop in this process."""
    dataset = on_this_node(task.dataset)
    check_unchanged(dataset)
    dataset = at_size(dataset, config.network.image_size)
    torch.set_num_threads(task.spec.cpus_per_trial)
    store = task.store(number)
    last = store.last()
    start: dict[str, Any] = {
        "init": registry.checkpoint(task.init) if task.init else None,
        "weights": task.spec.weights,
    }
    with (
        last.directory() if last else contextlib.nullcontext() as checkpoint,
        within.resumed(store, checkpoint, last.epoch if last else 0) as folder,
    ):
        training = loop.start(
            config,
            dataset,
            device="cuda" if torch.cuda.is_available() else "cpu",
            **({"resume": folder} if folder else start),
        )
    if isinstance(training, loop.Training):
        training.on_part = within.Keeper(store)
    # A killed driver may have missed these epochs. The driver ignores epochs that it has recorded.
    for metrics in training.history:
        yield {METRICS: metrics, "done": False}
    for metrics, snapshot in training.epochs():
        store.keep(training.epoch, snapshot.save)
        within.drop(store)
        yield {METRICS: metrics, "done": training.finished}


def _with_workers(task: StudyContext, number: int, config: Config) -> Generator[dict[str, Any]]:
    """Yield a result per epoch from a Ray Train run. This process is its driver."""
    heard: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()
    thread = threading.Thread(target=_drive, args=(task, number, config, heard), daemon=True)
    thread.start()
    while (item := heard.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


class _PassOn:
    """Receives the epochs of the workers and passes them on to Tune."""

    def __init__(self, heard: queue.SimpleQueue[Any]):
        self._heard = heard

    def add(self, metrics: dict[str, float]) -> None:
        self._heard.put({METRICS: metrics, "done": False})

    def beat(self) -> None:
        """Do nothing. The study's driver sends the heartbeat."""


def _drive(task: StudyContext, number: int, config: Config, heard: queue.SimpleQueue[Any]) -> None:
    spec = task.spec
    resources: dict[str, Any] = {"CPU": spec.cpus_per_trial}
    if spec.gpus_per_trial:
        resources["GPU"] = spec.gpus_per_trial
    scaling = {
        "num_workers": spec.workers_per_trial,
        "use_gpu": bool(spec.gpus_per_trial),
        "resources_per_worker": resources,
    }
    training = TrainingSpec(
        dataset=spec.dataset,
        dataset_version=spec.dataset_version,
        fingerprint=spec.fingerprint,
        config=config,
        storage=spec.storage,
        init=spec.init,
        weights=spec.weights,
        workers=spec.workers_per_trial,
        lineage={},
    )
    listener = _PassOn(heard)
    try:
        free(task.held(number))  # an earlier attempt at the trial may still hold resources
        store = task.store(number)
        store.prepare()
        for metrics in store.history():
            listener.add(metrics)
        run_workers(training, task.dataset, scaling, store, listener, task.held(number))
        heard.put(None)
    except Exception as error:
        heard.put(error)
