"""The state of a training within a long epoch, on the storage path: a run that ends there goes on there.

    keeper = Keeper(store)
    keeper(snapshot, begun)                  # after a part of an epoch; at most once in KEEP_S seconds
    with resumed(store, checkpoint, epoch=2) as folder: …     # what is newer
    drop(store)                              # when the epoch has its checkpoint

    <storage>/<run>/within/00002-000001200/  as a checkpoint: after 1,200 steps of the third epoch

An epoch has such a part after every PART_PIXELS of images (raycls/training/sampling.py). It seeds its random numbers
anew, so the rest of the epoch is the same as it would have been. This module knows neither Ray nor MLflow.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from raycls.data.files import copy_files
from raycls.errors import StorageError
from raycls.training import seal
from raycls.training.checkpoints import CheckpointStore, first_line, local, saving

if TYPE_CHECKING:
    from raycls.training.snapshot import Snapshot

FOLDER = "within"
KEEP_S = 60.0  # seconds between two states


class Begun(TypedDict):
    """An epoch that has begun. epoch: from 0. step: how many of its steps are done, by how many workers.

    sums: of loss and accuracy over these steps. epoch_seconds, train_seconds: in the epoch, and in the training so far.
    """

    epoch: int
    step: int
    workers: int
    sums: list[float]
    epoch_seconds: float
    train_seconds: float


class Kept(NamedTuple):
    """A whole state on the storage path. epoch, step: see Begun."""

    epoch: int
    step: int
    path: str


class Keeper:
    """Writes the states of one training. writes: this worker does it for all."""

    def __init__(self, store: CheckpointStore, *, writes: bool = True):
        self._store, self._writes, self._last = store, writes, time.monotonic()

    def __call__(self, snapshot: Snapshot, begun: Begun) -> None:
        """Keep a state if the last one is older than KEEP_S, and delete the others. Raises StorageError.

        A former state that cannot be deleted costs space alone, as the newest one counts.
        """
        if not self._writes or time.monotonic() - self._last < KEEP_S:
            return
        store = self._store
        path = f"{store.path}/{FOLDER}/{begun['epoch']:05}-{begun['step']:09}"
        with saving(store.filesystem, path), tempfile.TemporaryDirectory() as folder:
            snapshot.save(Path(folder))
            store.filesystem.create_dir(path, recursive=True)
            copy_files(folder, path, to=store.filesystem)
        with suppress(OSError):
            for old in _paths(store):
                if old != path:
                    store.filesystem.delete_dir(old)
        self._last = time.monotonic()


def newest(store: CheckpointStore) -> Kept | None:
    """Return the latest whole state, or None. Raises StorageError if the storage path cannot be read."""
    try:
        paths = _paths(store)
    except OSError as error:
        raise StorageError(
            f"the states within epochs under {store.path} cannot be read: {first_line(error)}"
        ) from error
    for path in reversed(paths):
        with suppress(OSError):
            if seal.read(store.filesystem, path) is not None:
                epoch, _, step = path.rpartition("/")[2].partition("-")
                return Kept(int(epoch), int(step), path)
    return None


@contextmanager
def resumed(store: CheckpointStore, checkpoint: Path | None, epoch: int) -> Iterator[Path | None]:
    """Yield the directory to resume from: the state of a later epoch than the checkpoint, or the checkpoint.

    checkpoint: a checkpoint directory after `epoch` epochs; None: after none.
    """
    kept = newest(store)
    if kept and kept.epoch >= epoch:
        with local(store.filesystem, kept.path) as folder:
            yield folder
    else:
        yield checkpoint


def drop(store: CheckpointStore) -> None:
    """Delete all states: the epoch that they are of has ended. One that stays is older than its checkpoint."""
    with suppress(OSError):
        store.filesystem.delete_dir(f"{store.path}/{FOLDER}")


def _paths(store: CheckpointStore) -> list[str]:
    from pyarrow.fs import FileSelector

    found = store.filesystem.get_file_info(FileSelector(f"{store.path}/{FOLDER}", allow_not_found=True))
    return sorted(entry.path for entry in found if "-" in entry.base_name)
