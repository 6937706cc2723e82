"""The checkpoints of one training run on the Ray storage path.

A resumed run finds its checkpoints with a CheckpointStore.

    store = CheckpointStore(home.storage(), "cifar10-20260114-101500-3f2a")
    last = store.last()                 # of the latest epoch, or None
    best = store.best("val_accuracy")   # with the best val_accuracy, or None
    with last.directory() as folder:    # a checkpoint directory on this machine
        network, card = checkpoint.load(folder)

    <storage>/<run>/attempt-1/epoch-00001/     model.safetensors  model.json  training_state.pt  complete.json
    <storage>/<run>/start/                     model.safetensors  model.json: what a run of a pruned network starts from

The first start of a run and every resume is an attempt. Each attempt has its own directory. Ray writes its index of an
attempt's checkpoints in place, so a kill or a full disk can leave half an index. This module does not read that index.
It looks at every checkpoint and uses those that are whole, without reading their weights (raycls/training/seal.py). It
knows neither Ray nor MLflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raycls import metrics
from raycls.data.files import copy_files, shown
from raycls.errors import StorageError, TrainingError
from raycls.models import checkpoint
from raycls.training import seal

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


START = "start"


@dataclass(frozen=True)
class SavedCheckpoint:
    """One checkpoint at `path` on `filesystem`, which may be a bucket.

    history: the metrics of every epoch up to this checkpoint, in order.
    """

    filesystem: FileSystem
    path: str
    history: list[dict[str, float]]

    @property
    def metrics(self) -> dict[str, float]:
        return self.history[-1]

    @property
    def epoch(self) -> int:
        return int(self.metrics["epoch"])

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """Yield the checkpoint as a local directory, valid until the context ends."""
        with local(self.filesystem, self.path) as folder:
            yield folder


def epoch_directory(epoch: int) -> str:
    return f"epoch-{epoch:05d}"


@contextmanager
def local(filesystem: FileSystem, path: str) -> Iterator[Path]:
    """Yield the directory itself if the filesystem is local, else a temporary copy."""
    from pyarrow.fs import LocalFileSystem

    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_files(path, folder, of=filesystem)
        yield Path(folder)


@contextmanager
def saving(filesystem: FileSystem, path: str) -> Iterator[None]:
    """Raise StorageError if the checkpoint cannot be written. Delete its partial files, which would take up space."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        with suppress(OSError):
            filesystem.delete_dir(path)
        directory, _, name = path.rpartition("/")
        raise StorageError(
            f"the checkpoint {name} cannot be written under {directory} (by way of {tempfile.gettempdir()}): "
            f"{first_line(error)}"
        ) from error


class CheckpointStore:
    """The checkpoints of one run. `uri` is a Ray storage path: a directory, or any URI that pyarrow understands.

    Raises TrainingError if the URI is not a storage path.
    """

    def __init__(self, uri: str, run: str):
        from pyarrow.fs import FileSystem

        self.uri, self.run = uri, run
        try:
            self.filesystem, root = FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"RAYCLS_STORAGE={shown(uri)} is no storage path: {shown(first_line(error))}"
            ) from None
        self.root = root.rstrip("/")
        self.path = f"{self.root}/{run}"

    def prepare(self) -> None:
        """Create the run's directory and check that it is writable. Raises TrainingError with the reason if not."""
        try:
            self.filesystem.create_dir(self.path, recursive=True)
            probe = f"{self.path}/.writable"
            with self.filesystem.open_output_stream(probe) as file:
                file.write(b"raycls")
            self.filesystem.delete_file(probe)
        except OSError as error:
            raise TrainingError(
                f"cannot write to the storage path {shown(self.uri)}: {shown(first_line(error))}; "
                "make room there, or name another with RAYCLS_STORAGE"
            ) from None

    def exists(self) -> bool:
        from pyarrow.fs import FileType

        return self.filesystem.get_file_info(self.path).type != FileType.NotFound

    def keep(self, epoch: int, save: Callable[[Path], None]) -> None:
        """Write the epoch's checkpoint with `save`, then delete the checkpoints of earlier epochs.

        For training without Ray Train, which writes the checkpoints of its workers itself. Raises StorageError.
        """
        former = self._paths()
        path = f"{self.path}/attempt-1/{epoch_directory(epoch)}"
        with saving(self.filesystem, path):
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder))
                self.filesystem.create_dir(path, recursive=True)
                copy_files(folder, path, to=self.filesystem)
            for old in former:
                if old != path:
                    self.filesystem.delete_dir(old)

    def keep_start(self, directory: Path) -> None:
        """Copy the checkpoint that the run starts from, where it is no registered version. Raises StorageError."""
        path = f"{self.path}/{START}"
        with saving(self.filesystem, path):
            self.filesystem.create_dir(path, recursive=True)
            copy_files(str(directory), path, to=self.filesystem)

    def start(self) -> SavedCheckpoint | None:
        """Return what `keep_start` has kept, or None."""
        found = self._list(self.path, START)
        return SavedCheckpoint(self.filesystem, found[0], []) if found else None

    def remove(self) -> None:
        """Delete all checkpoints of the run. Do nothing if there are none."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def next_attempt(self) -> str:
        """Return the directory of the next attempt, relative to the storage path."""
        return f"{self.run}/attempt-{1 + len(self._list(self.path, 'attempt-'))}"

    def last(self) -> SavedCheckpoint | None:
        """Return the checkpoint of the latest epoch, or None."""
        return max(self.checkpoints(), key=lambda saved: saved.epoch, default=None)

    def best(self, metric: str) -> SavedCheckpoint | None:
        """Return the checkpoint with the best value of this metric, or None. The later epoch wins a tie."""

        def order(saved: SavedCheckpoint) -> tuple[tuple[bool, float], int]:
            return metrics.rank(metric, saved.metrics), saved.epoch

        return max(self.checkpoints(), key=order, default=None)

    @contextmanager
    def newest(self, folder: str) -> Iterator[Path | None]:
        """Yield what a worker has put beside the checkpoints of an attempt, as a local directory, or None."""
        from pyarrow.fs import FileType

        paths = [f"{attempt}/{folder}" for attempt in self._list(self.path, "attempt-")]
        found = [each.path for each in self.filesystem.get_file_info(paths) if each.type != FileType.NotFound]
        if found:
            with local(self.filesystem, found[-1]) as here:
                yield here
        else:
            yield None

    def history(self) -> list[dict[str, float]]:
        """Return the metrics of every epoch up to the last checkpoint, in order."""
        last = self.last()
        return last.history if last else []

    def checkpoints(self) -> list[SavedCheckpoint]:
        """Return the complete checkpoints of all attempts. Skip those that a kill or a full disk left incomplete."""
        found = (self._read(path) for path in self._paths())
        return [saved for saved in found if saved]

    def tidy(self, metric: str) -> None:
        """Delete all checkpoints except the last and the best. Incomplete checkpoints are deleted too."""
        needed = {saved.path for saved in (self.last(), self.best(metric)) if saved}
        for path in self._paths():
            if path not in needed:
                self.filesystem.delete_dir(path)

    def _paths(self) -> list[str]:
        attempts = self._list(self.path, "attempt-")
        return [path for attempt in attempts for path in self._list(attempt, "epoch-")]

    def _list(self, directory: str, prefix: str) -> list[str]:
        from pyarrow.fs import FileSelector

        entries = self.filesystem.get_file_info(FileSelector(directory, allow_not_found=True))
        return sorted(entry.path for entry in entries if entry.base_name.startswith(prefix))

    def _read(self, path: str) -> SavedCheckpoint | None:
        try:
            history = seal.read(self.filesystem, path)
        except OSError:  # it has no seal, or is no directory
            history = self._read_whole(path)
        return SavedCheckpoint(self.filesystem, path, history) if history else None

    def _read_whole(self, path: str) -> seal.History | None:
        """Return the history of a checkpoint that an earlier raycls wrote, which says nothing of itself."""
        try:
            with local(self.filesystem, path) as folder:
                checkpoint.load(folder)
                state = torch.load(folder / seal.STATE, map_location="cpu", weights_only=True)
        except Exception:  # the type depends on where the file was cut off
            return None
        history: seal.History = state["history"]
        return history


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
