"""How a packed dataset comes to exist whole or not at all.

    with write_dataset("shapes") as writer:
        writer.fill("train", pixels, np.arange(700))       # and val, and test
        dataset = writer.publish(classes=("circle", "square"), labels=labels, ...)

Everything is written in a hidden directory, the manifest last, and then renamed. One process at a time may
prepare a name; what a killed one left is removed by the next. Knows nothing of where images come from.
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
    """An unfinished dataset: arrays go into the hidden directory `path`, `publish` renames it to `name`."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path

    def fill(self, split: str, images: np.ndarray, indices: np.ndarray) -> None:
        """Write images[indices] as those of the split. images: uint8 N×S×S×3; indices: int64, in 0..N-1."""
        out = self.array(f"{split}/images.npy", (len(indices), *images.shape[1:]))
        np.take(images, indices, axis=0, out=out, mode="clip")  # any other mode makes a copy first

    def array(self, file: str, shape: tuple[int, ...]) -> np.memmap:
        """A writable uint8 .npy file under `path`. Raises DataError where the disk is too small for it."""
        target = self.path / file
        target.parent.mkdir(exist_ok=True)
        size, free = np.prod(shape, dtype=np.int64), shutil.disk_usage(self.path).free
        if size > free:  # a full disk would kill the process in the middle of a write to the map
            raise DataError(
                f"{file} takes {size / 1e6:,.0f} MB, {home.datasets()} has {free / 1e6:,.0f} MB free"
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
        """Complete, check and rename. labels: int64, one array per split, in the order of its images."""
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
        """Check what lies under `path` against its manifest, and rename."""
        PackedDataset(self.path, manifest).check()
        (self.path / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n")
        for file in (*ARRAYS, "manifest.json", *SPLITS, "."):
            _sync(self.path / file)
        target, retired = location(self.name), retired_location(self.name)
        if target.exists():
            target.rename(retired)  # killed right here, `open_dataset` finds the old one in its retired place
        self.path.rename(target)
        _sync(target.parent)
        shutil.rmtree(retired, ignore_errors=True)
        return PackedDataset(target, manifest)


@contextlib.contextmanager
def write_dataset(name: str) -> Iterator[DatasetWriter]:
    """Hold the name, give a writer, and remove what it wrote unless it was published.

    Raises UsageError for a name that cannot be a directory, BusyError while another process prepares the same
    name, DataError where nothing can be written.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a dataset: give one with --name, of letters, digits, '_', '-' and '.'"
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
    """Per-channel mean and standard deviation of uint8 N×S×S×3, in units of 0..1, from exact counts."""
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
    # A channel of one value has no spread; half a grey level keeps the normalisation finite.
    red, green, blue = zip(mean.tolist(), np.maximum(std, 0.5 / 255).tolist(), strict=True)
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _temporary(name: str) -> Path:
    return home.datasets() / f".{name}.tmp"


def _tidy(name: str) -> None:
    """Remove what a killed preparation of `name` left; the caller holds its lock."""
    shutil.rmtree(_temporary(name), ignore_errors=True)
    if location(name).exists():
        shutil.rmtree(retired_location(name), ignore_errors=True)
    elif retired_location(name).exists():
        retired_location(name).rename(location(name))


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    # The kernel drops the lock with its process, however that dies. The file stays: if it were removed, two
    # processes could each lock a file of that name.
    with (home.datasets() / f".{name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(
                f"dataset {name} is being prepared by process {file.read()}: wait for it, or end it first"
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
