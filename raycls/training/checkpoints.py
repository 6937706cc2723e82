"""The checkpoints of one training run on the Ray storage path, for the run itself and for a resume.

    store = CheckpointStore(home.storage(), "cifar10-20260114-101500-3f2a")
    last = store.last()                 # of the latest epoch, or None; store.best("val_accuracy"): the highest
    with last.directory() as folder:    # a checkpoint directory on this machine
        network, card = checkpoint.load(folder)

    <storage>/<run>/attempt-1/epoch-00001/     model.safetensors  model.json  training_state.pt

Each start of the run, a resume too, is an attempt with a directory of its own. Ray writes its index of an attempt's
checkpoints in place, so that a kill or a full disk may truncate it: it is never read. A checkpoint counts where every
file of it can be read. Knows directories, not Ray and not MLflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raycls.errors import StorageError, TrainingError
from raycls.models import checkpoint
from raycls.training.loop import STATE

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


@dataclass(frozen=True)
class SavedCheckpoint:
    """One checkpoint: `path` on `filesystem`, which may be a bucket's. `history`: the metrics of all its epochs."""

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
        """The checkpoint as a local directory, for as long as the context lasts."""
        with local(self.filesystem, self.path) as folder:
            yield folder


def epoch_directory(epoch: int) -> str:
    return f"epoch-{epoch:05d}"


@contextmanager
def local(filesystem: FileSystem, path: str) -> Iterator[Path]:
    """Yield the directory itself where the filesystem is this machine's, else a temporary copy."""
    from pyarrow.fs import LocalFileSystem, copy_files

    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_files(path, folder, source_filesystem=filesystem)
        yield Path(folder)


@contextmanager
def saving(filesystem: FileSystem, path: str) -> Iterator[None]:
    """Turn the failure to write a checkpoint into a StorageError, and delete the part that was written."""
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
    """Where one run keeps its checkpoints. `uri` is a Ray storage path: a directory, or any URI pyarrow understands.

    Raises TrainingError for a URI that names no storage.
    """

    def __init__(self, uri: str, run: str):
        from pyarrow.fs import FileSystem

        self.uri, self.run = uri, run
        try:
            self.filesystem, root = FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
            raise TrainingError(f"RAYCLS_STORAGE={uri} is no storage path: {first_line(error)}") from None
        self.root = root.rstrip("/")
        self.path = f"{self.root}/{run}"

    def prepare(self) -> None:
        """Make the run's directory and write a file in it. Raises TrainingError that says why that cannot be."""
        try:
            self.filesystem.create_dir(self.path, recursive=True)
            probe = f"{self.path}/.writable"
            with self.filesystem.open_output_stream(probe) as file:
                file.write(b"raycls")
            self.filesystem.delete_file(probe)
        except OSError as error:
            raise TrainingError(
                f"cannot write to the storage path {self.uri}: {first_line(error)}; "
                "make room there, or name another with RAYCLS_STORAGE"
            ) from None

    def exists(self) -> bool:
        from pyarrow.fs import FileType

        return self.filesystem.get_file_info(self.path).type != FileType.NotFound

    def keep(self, epoch: int, save: Callable[[Path], None]) -> None:
        """Write an epoch's checkpoint directory with `save`, and delete those of earlier epochs.

        For trials, which write alone; Ray Train writes the checkpoints of its workers. Raises StorageError.
        """
        from pyarrow.fs import copy_files

        former = self._paths()
        path = f"{self.path}/attempt-1/{epoch_directory(epoch)}"
        with saving(self.filesystem, path):
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder))
                self.filesystem.create_dir(path, recursive=True)
                copy_files(folder, path, destination_filesystem=self.filesystem)
            for old in former:
                if old != path:
                    self.filesystem.delete_dir(old)

    def remove(self) -> None:
        """Delete all checkpoints of the run, if there are any."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def next_attempt(self) -> str:
        """Return the directory of the next attempt, relative to the storage path."""
        return f"{self.run}/attempt-{1 + len(self._list(self.path, 'attempt-'))}"

    def last(self) -> SavedCheckpoint | None:
        return max(self.checkpoints(), key=lambda saved: saved.epoch, default=None)

    def best(self, metric: str) -> SavedCheckpoint | None:
        """Return the checkpoint with the highest value of the metric, the later one of equals; None without any."""
        return max(self.checkpoints(), key=lambda saved: (saved.metrics[metric], saved.epoch), default=None)

    def history(self) -> list[dict[str, float]]:
        """Return the metrics of every epoch up to the last checkpoint."""
        last = self.last()
        return last.history if last else []

    def checkpoints(self) -> list[SavedCheckpoint]:
        """Return every complete checkpoint of all attempts. A truncated one is left out."""
        found = (self._read(path) for path in self._paths())
        return [saved for saved in found if saved]

    def tidy(self, metric: str) -> None:
        """Delete all checkpoints but the last and the best."""
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
            with local(self.filesystem, path) as folder:
                checkpoint.load(folder)
                state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many types, depending on where a file ends
            return None
        return SavedCheckpoint(self.filesystem, path, state["history"])


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
