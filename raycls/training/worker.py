"""The code of each Ray Train worker: run the training loop, send progress to the driver, save checkpoints.

    task = {"job": job, "dataset": dataset, "store": store, "former": store.last(), "init": None, "channel": channel}
    TorchTrainer(work, train_loop_config=task, …).fit()

store: of the run's checkpoints. former: the last one of earlier attempts, or None. init: the registered model, or the
checkpoint in the run's own storage, to start from if there is no checkpoint, or None. channel: carries events to the
driver (raycls/training/events.py).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from raycls import registry
from raycls.cluster.environment import give_way
from raycls.data.files import copy_files
from raycls.data.packed import PackedDataset
from raycls.data.resized import at_size
from raycls.data.subsets import opened
from raycls.data.versions import on_this_node
from raycls.metrics import rank
from raycls.models.card import load_card
from raycls.tracking.resumable import TrainingSpec
from raycls.training import loop, within
from raycls.training.checkpoints import CheckpointStore, SavedCheckpoint, epoch_directory, local, saving
from raycls.training.events import Channel
from raycls.training.failures import check_unchanged, enough_memory
from raycls.training.profile import FOLDER, EpochRecorder
from raycls.training.workers import Workers

SCORE = "score"  # what Ray is told besides the metrics
TELL_S = 1.0  # shortest time between two progress events, seconds


def work(task: dict[str, Any]) -> None:
    """Train with the other workers, and report every epoch to Ray. Start from the latest checkpoint if there is one."""
    import ray.train
    import ray.train.torch

    give_way()
    spec: TrainingSpec = task["job"]
    dataset: PackedDataset = on_this_node(task["dataset"])
    channel: Channel = task["channel"]
    check_unchanged(dataset)
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    told = 0.0

    def on_step(done: int, total: int) -> None:
        nonlocal told
        if workers.rank == 0 and time.monotonic() - told > TELL_S:
            told = time.monotonic()
            channel.put(["step", done, total])

    def on_epoch(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
        name = epoch_directory(int(metrics["epoch"]))
        whole, value = rank(spec.config.training.chosen_by, metrics)
        reported = {
            **metrics,
            SCORE: value if whole else value - 1e9,
        }  # Ray keeps the epoch with the highest one
        if workers.rank != 0:
            ray.train.report(reported, checkpoint_dir_name=name)
            return
        check_unchanged(dataset)
        # Send the metrics before the checkpoint is saved. So MLflow has every epoch that a resumed run skips.
        channel.put(["epoch", metrics])
        storage = context.get_storage()
        path = f"{storage.experiment_fs_path}/{name}"
        with tempfile.TemporaryDirectory() as folder, saving(storage.storage_filesystem, path):
            snapshot.save(Path(folder))
            kept = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(reported, checkpoint=kept, checkpoint_dir_name=name)
        within.drop(task["store"])

    with ExitStack() as stack:
        folder = stack.enter_context(_latest(ray.train.get_checkpoint(), task["former"], task["store"]))
        part = stack.enter_context(opened(dataset, spec.subset) if spec.subset else nullcontext(dataset))
        learned = at_size(
            part, spec.config.network.image_size, spec.subset.model_dump_json() if spec.subset else ""
        )
        start: dict[str, Any] = {"resume": folder}
        if folder is None:
            start = {"init": stack.enter_context(_parent(task["init"])), "weights": spec.weights}
        elif workers.rank == 0:
            reached = load_card(folder).metrics
            channel.put(["resumed", int(reached["epoch"]), int(reached.get("step", 0))])
        device = ray.train.torch.get_device()
        recorder = None
        if spec.profile and workers.rank == 0:
            save = partial(_save_profile, context.get_storage())
            recorder = EpochRecorder(spec.config.training.epochs, device, save)
        with enough_memory(spec.config.training.batch_size):
            loop.fit(
                spec.config,
                learned,
                on_epoch=on_epoch,
                on_step=on_step,
                on_part=within.Keeper(task["store"], writes=workers.rank == 0),
                device=device,
                workers=workers,
                recorder=recorder,
                **start,
            )


@contextmanager
def _latest(latest: Any, former: SavedCheckpoint | None, store: CheckpointStore) -> Iterator[Path | None]:
    """Yield the directory to resume from, or None.

    latest: Ray's latest checkpoint of this attempt, or None. former: the last checkpoint of earlier attempts, or None.
    """
    with ExitStack() as stack:
        folder: Path | None = None
        epoch = 0
        if latest:
            folder = stack.enter_context(local(latest.filesystem, latest.path))
            epoch = int(load_card(folder).metrics["epoch"])
        elif former:
            folder, epoch = stack.enter_context(former.directory()), former.epoch
        yield stack.enter_context(within.resumed(store, folder, epoch))


@contextmanager
def _parent(init: registry.ModelVersion | SavedCheckpoint | None) -> Iterator[Path | None]:
    """Yield the directory of the checkpoint that a new run starts from, or None."""
    if isinstance(init, SavedCheckpoint):
        with init.directory() as folder:
            yield folder
    else:
        yield registry.checkpoint(init) if init else None


def _save_profile(storage: Any, folder: Path) -> None:
    """Copy a profile to the run's storage, where it can be written: it must not cost the training."""
    with suppress(OSError):
        path = f"{storage.experiment_fs_path}/{FOLDER}"
        storage.storage_filesystem.create_dir(path, recursive=True)
        copy_files(str(folder), path, to=storage.storage_filesystem)
