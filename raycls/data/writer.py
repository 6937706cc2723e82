"""The writer of packed datasets: a dataset appears complete or not at all.

    with write_dataset("shapes") as writer:
        writer.fill("train", pixels, np.arange(700))       # and val, and test
        dataset = writer.publish(classes=("circle", "square"), labels=labels, ...)

The writer fills a hidden directory, writes the manifest last, and then renames the directory. Only one process at a
time may prepare a name. If a process was killed, the next one deletes its unfinished files. This module does not know
where images come from.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raycls import home
from raycls.data.packed import (
    ARRAYS,
    SPLITS,
    Manifest,
    PackedDataset,
    SkippedFile,
    fingerprint,
    location,
    retired_location,
    sha256_file,
)
from raycls.errors import BusyError, DataError, UsageError

_Channels = tuple[float, float, float]
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class DatasetWriter:
    """An unfinished dataset. Its arrays are in the hidden directory `path`; `publish` renames it to `name`."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path

    def fill(self, split: str, images: np.ndarray, indices: np.ndarray) -> None:
        """Write images[indices] as the images of a split. images: uint8 N×S×S×3. indices: int64, in 0..N-1."""
        out = self.array(f"{split}/images.npy", (len(indices), *images.shape[1:]))
        np.take(images, indices, axis=0, out=out, mode="clip")  # the default mode would copy `out`

    def array(self, file: str, shape: tuple[int, ...]) -> np.memmap:
        """Create a uint8 .npy file under `path` and return it, writable. Raises DataError if the disk is too small."""
        target = self.path / file
        target.parent.mkdir(exist_ok=True)
        size, free = np.prod(shape, dtype=np.int64), shutil.disk_usage(self.path).free
        if size > free:  # on a full disk, a write to the memory map would kill the process
            raise DataError(
                f"{file} takes {size / 1e6:,.0f} MB, but {home.datasets()} has only {free / 1e6:,.0f} MB free: make "
                "room, or set RAYCLS_HOME to a larger disk"
            )
        return np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)

    def publish(
        self,
        *,
        classes: tuple[str, ...],
        labels: dict[str, np.ndarray],
        mirrorable: bool,
        source: str,
        licence: str,
        skipped: tuple[SkippedFile, ...] = (),
    ) -> PackedDataset:
        """Write labels and manifest, check the dataset, and rename its directory. Return the dataset.

        labels: for each split int64, one label for each image, in the order of the images. For mirrorable see Manifest.
        """
        for split in SPLITS:
            np.save(self.path / split / "labels.npy", np.asarray(labels[split], dtype=np.int64))
        train = np.load(self.path / "train/images.npy", mmap_mode="r")
        mean, std = channel_statistics(train)
        digests = {array: sha256_file(self.path / array) for array in ARRAYS}
        manifest = Manifest(
            name=self.name,
            classes=classes,
            image_size=train.shape[1],
            counts={split: len(labels[split]) for split in SPLITS},
            class_counts={
                split: tuple(np.bincount(labels[split], minlength=len(classes)).tolist()) for split in SPLITS
            },
            mean=mean,
            std=std,
            mirrorable=mirrorable,
            source=source,
            licence=licence,
            skipped=skipped,
            sha256=digests,
            fingerprint=fingerprint(digests, classes, train.shape[1]),
        )
        return self.place(manifest)

    def place(self, manifest: Manifest) -> PackedDataset:
        """Check the arrays under `path`, write the manifest, rename the directory, and return the dataset."""
        PackedDataset(self.path, manifest).check()
        (self.path / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n")
        for file in (*ARRAYS, "manifest.json", *SPLITS, "."):
            _sync(self.path / file)
        target, retired = location(self.name), retired_location(self.name)
        if target.exists():
            target.rename(
                retired
            )  # if the process is killed here, `open_dataset` finds the old dataset there
        self.path.rename(target)
        _sync(target.parent)
        shutil.rmtree(retired, ignore_errors=True)
        return PackedDataset(target, manifest)


@contextlib.contextmanager
def write_dataset(name: str) -> Iterator[DatasetWriter]:
    """Reserve the name and yield a writer. At the end, delete the files of a dataset that was not published.

    Raises UsageError if the name cannot be a directory's name, BusyError if another process is preparing the same name,
    DataError if the files cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a dataset: choose a name of letters, digits, '_', '-' and '.' with --name"
        )
    try:
        home.datasets().mkdir(parents=True, exist_ok=True)
        with _lock(name):
            _tidy(name)
            for leftover in home.datasets().glob(".*.tmp"):
                other = leftover.name.removeprefix(".").removesuffix(".tmp")
                with contextlib.suppress(BusyError), _lock(other):
                    _tidy(other)
            writer = DatasetWriter(name, _temporary(name))
            writer.path.mkdir()
            try:
                yield writer
            finally:
                shutil.rmtree(writer.path, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot prepare the dataset {name} in {home.datasets()}: {error}") from error


def channel_statistics(images: np.ndarray) -> tuple[_Channels, _Channels]:
    """Return mean and standard deviation of each channel of uint8 N×S×S×3, in units of the 0..1 range.

    Both come from a histogram of each channel, so they are exact and need little memory.
    """
    counts = np.zeros((3, 256), dtype=np.int64)
    step = max(1, 2**20 // images[0].size)
    for start in range(0, len(images), step):
        pixels = images[start : start + step].reshape(-1, 3)
        for channel in range(3):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    # A channel of one value has a standard deviation of 0. Half a grey level keeps the normalisation finite.
    red, green, blue = zip(mean.tolist(), np.maximum(std, 0.5 / 255).tolist(), strict=True)
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _temporary(name: str) -> Path:
    return home.datasets() / f".{name}.tmp"


def _tidy(name: str) -> None:
    """Delete the files that a killed preparation of `name` left. The caller holds the lock of `name`."""
    shutil.rmtree(_temporary(name), ignore_errors=True)
    if location(name).exists():
        shutil.rmtree(retired_location(name), ignore_errors=True)
    elif retired_location(name).exists():
        retired_location(name).rename(location(name))


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
