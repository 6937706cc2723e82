"""The writer of dataset versions: a version appears complete or not at all.

    with reserved("shapes"):
        with write_version("shapes", 2) as writer:
            writer.array("train", 700, 32)[:] = pixels       # and val, gate and test
            dataset = writer.publish(labels=…, rows=…, …)

    with writer.encoder("train", labels, 224) as encoder:    # in place of an array
        encoder.add_pixels(pixels)

The writer fills a hidden directory, writes the description last, and then renames the directory. Only one process at a
time may prepare a name. If a process was killed, the next one deletes its unfinished files. This module does not know
where images come from.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from raycls import home
from raycls.data.encoder import Channels, Histogram, SplitEncoder
from raycls.data.files import shown, sync
from raycls.data.layout import location, versions_of
from raycls.data.manifest import write_table
from raycls.data.packed import (
    INFO,
    LEFT_OUT,
    NAME,
    ROWS,
    SPLITS,
    DatasetInfo,
    PackedDataset,
    arrays_of,
    fingerprint,
    sha256_file,
)
from raycls.data.transforms import Resize
from raycls.errors import BusyError, DataError, UsageError

LAST = ".last"  # the highest version that a name ever had on this machine


class VersionWriter:
    """An unfinished version. Its arrays are in the hidden directory `path`; `publish` renames it."""

    def __init__(self, name: str, version: int, path: Path):
        self.name, self.version, self.path = name, version, path
        self._encoders: dict[str, SplitEncoder] = {}

    def encoder(self, split: str, labels: np.ndarray, side: int, *, measure: bool = True) -> SplitEncoder:
        """Return what writes a split as encoded images. labels: int64, of all of them. It is used as a context."""
        self._encoders[split] = SplitEncoder(self.path / split, split, labels, side, measure=measure)
        return self._encoders[split]

    def array(self, split: str, count: int, side: int) -> np.ndarray:
        """Create the images of a split, uint8 count×side×side×3, and return them, writable.

        Raises DataError if the disk is too small.
        """
        target = self.path / split / "images.npy"
        target.parent.mkdir(exist_ok=True)
        shape = (count, side, side, 3)
        size, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(self.path).free
        if size > free:  # on a full disk, a write to the memory map would kill the process
            raise DataError(
                f"{split}/images.npy takes {size / 1e6:,.0f} MB, but {home.datasets()} has only {free / 1e6:,.0f} MB "
                "free: make room, or set RAYCLS_HOME to a larger disk"
            )
        if not count:
            np.save(target, np.empty(shape, dtype=np.uint8))
            return np.load(target)
        return np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)

    def publish(
        self,
        *,
        classes: tuple[str, ...],
        labels: dict[str, np.ndarray],
        mirrorable: bool,
        source: str,
        licence: str,
        rows: pa.Table,
        left_out: pa.Table,
        resize: Resize = "crop",
        ignored: int = 0,
        options: dict[str, str] | None = None,
        former_fingerprints: tuple[str, ...] = (),
    ) -> PackedDataset:
        """Write labels, rows and description, check the version, and rename its directory. Return the version.

        labels: for each split int64, one label for each image, in the order of the images. rows and left_out: see
        raycls/data/manifest.py. For the rest see DatasetInfo.
        """
        for split in SPLITS:
            np.save(self.path / split / "labels.npy", np.asarray(labels[split], dtype=np.int64))
        write_table(rows, self.path / ROWS)
        write_table(left_out, self.path / LEFT_OUT)
        if self._encoders:
            side, (mean, std) = self._encoders["train"].side, self._encoders["train"].histogram.statistics()
        else:
            train = np.load(self.path / "train/images.npy", mmap_mode="r")
            side, (mean, std) = train.shape[1], channel_statistics(train)
        files = [
            *arrays_of(SPLITS),
            *(f"{split}/{file.name}" for split in SPLITS for file in self._shards(split)),
        ]
        info = DatasetInfo(
            name=self.name,
            version=self.version,
            classes=classes,
            image_size=side,
            resize=resize,
            counts={split: len(labels[split]) for split in SPLITS},
            class_counts={
                split: tuple(np.bincount(labels[split], minlength=len(classes)).tolist()) for split in SPLITS
            },
            mean=mean,
            std=std,
            mirrorable=mirrorable,
            source=source,
            licence=licence,
            options=options or {},
            left_out=len(left_out),
            ignored=ignored,
            store="encoded" if self._encoders else "packed",
            shards=self.shapes(),
            sha256={file: sha256_file(self.path / file) for file in files if (self.path / file).exists()},
            tables={table: sha256_file(self.path / table) for table in (ROWS, LEFT_OUT)},
            fingerprint="",
            former_fingerprints=former_fingerprints,
        )
        return self.place(info.model_copy(update={"fingerprint": fingerprint(info)}))

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return `DatasetInfo.shards` of what was encoded."""
        return {
            split: (encoder.shape.block, encoder.shape.shard) for split, encoder in self._encoders.items()
        }

    def _shards(self, split: str) -> list[Path]:
        return sorted((self.path / split).glob("shard-*.parquet")) if split in self._encoders else []

    def place(self, info: DatasetInfo, *, shards: bool = True) -> PackedDataset:
        """Check the files under `path`, write the description, rename the directory, and return the version.

        shards: those of an encoded version are there, and not on the storage path alone.
        """
        PackedDataset(self.path, info).check(shards=shards)
        (self.path / INFO).write_text(info.model_dump_json(indent=2) + "\n")
        for file in [*self.path.rglob("*"), self.path]:
            sync(file)
        target = location(self.name, self.version)
        if target.exists():
            # If the process is killed between these two, `reserved` finishes it.
            ready, former = self.path.with_suffix(".ready"), self.path.with_suffix(".removed")
            self.path.rename(ready)
            target.rename(former)
            ready.rename(target)
            shutil.rmtree(former)
        else:
            last = target.parent / LAST
            if not last.exists() or int(last.read_text()) < self.version:
                last.write_text(str(self.version))
            self.path.rename(target)
        sync(target.parent)
        return PackedDataset(target, info)


@contextlib.contextmanager
def reserved(name: str) -> Iterator[Path]:
    """Reserve a name for this process, and yield the folder of its versions.

    Raises UsageError if the name cannot be a directory's name, BusyError if another process is preparing the same name,
    DataError if the files cannot be written.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a dataset: choose a name of letters, digits, '_', '-' and '.' with --name"
        )
    folder = home.datasets() / name
    try:
        home.datasets().mkdir(parents=True, exist_ok=True)
        with _lock(name):
            folder.mkdir(exist_ok=True)
            _tidy(folder)
            try:
                yield folder
            finally:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # succeeds only where it is empty
    except OSError as error:
        reason = shown(str(error))
        raise DataError(f"cannot prepare the dataset {name} in {home.datasets()}: {reason}") from error


@contextlib.contextmanager
def write_version(name: str, version: int) -> Iterator[VersionWriter]:
    """Yield the writer of a version of a reserved name. At the end, delete the files of one that was not published."""
    path = home.datasets() / name / f".{version}.tmp"
    path.mkdir()
    try:
        yield VersionWriter(name, version, path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def next_version(name: str) -> int:
    """Return a number that no version of this name on this machine has or had."""
    last = home.datasets() / name / LAST
    return max([*versions_of(name), int(last.read_text()) if last.exists() else 0]) + 1


def channel_statistics(images: np.ndarray) -> tuple[Channels, Channels]:
    """Return mean and standard deviation of each channel of uint8 N×S×S×3, in units of the 0..1 range."""
    histogram = Histogram()
    step = max(1, 2**20 // images[0].size)
    for start in range(0, len(images), step):
        histogram.add(images[start : start + step])
    return histogram.statistics()


def _tidy(folder: Path) -> None:
    """Finish or delete what a killed process left in the folder of a name. The caller holds the lock."""
    for ready in folder.glob(".*.ready"):
        target = folder / ready.name.removeprefix(".").removesuffix(".ready")
        if target.exists():
            target.rename(ready.with_suffix(".removed"))
        ready.rename(target)
    for leftover in (*folder.glob(".*.tmp"), *folder.glob(".*.removed")):
        shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    # The kernel releases the lock when the process ends. The file stays: if it were deleted, two processes could each
    # lock a file of that name.
    with (home.datasets() / f".{name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(
                f"process {file.read()} is preparing the dataset {name}: wait for it, or end it first"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
