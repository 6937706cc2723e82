"""The packed dataset: the only form in which training, evaluation and tuning see images.

    $RAYCLS_HOME/datasets/<name>/   manifest.json   {train,val,test}/images.npy   {train,val,test}/labels.npy

    dataset = open_dataset("cifar10")
    dataset.images("train")[0]        # uint8 32×32×3, memory-mapped: many processes share one copy

Reads only; raycls/data/writer.py is what makes one. Knows arrays and directories, not where images come from.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from raycls import home
from raycls.errors import DataError, UnknownDatasetError
from raycls.progress import say

SPLITS = ("train", "val", "test")
ARRAYS = tuple(f"{split}/{array}.npy" for split in SPLITS for array in ("images", "labels"))


class SkippedFile(BaseModel, frozen=True):
    """A file of the source that is not in the dataset: its path relative to the source, and why."""

    path: str
    reason: str


class Manifest(BaseModel):
    """What a dataset says about itself.

    mean and std are per channel, of the training split, in units of 0..1. `mirrorable`: an image mirrored
    left to right keeps its class. `sha256` is of each file in ARRAYS, whole. `fingerprint` is 64 hex
    digits that change with any byte of any array, with the classes and with the image size (pixels a
    side).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    classes: tuple[str, ...]
    image_size: int
    counts: dict[str, int]
    class_counts: dict[str, tuple[int, ...]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mirrorable: bool
    source: str
    licence: str
    skipped: tuple[SkippedFile, ...] = ()
    sha256: dict[str, str]
    fingerprint: str


@dataclass(frozen=True)
class PackedDataset:
    """A dataset on disk. Small and picklable: the arrays are mapped when they are asked for."""

    path: Path
    manifest: Manifest

    def images(self, split: str) -> np.memmap:
        """Read-only memory map, uint8, N×S×S×3."""
        return np.load(self.path / split / "images.npy", mmap_mode="r")

    def labels(self, split: str) -> np.ndarray:
        """In memory, int64, N: indices into `manifest.classes`."""
        return np.load(self.path / split / "labels.npy")

    def here(self) -> PackedDataset:
        """The same dataset on this node of a cluster; from the storage path where the node has none of its name.

        Raises DataError that says how it gets there.
        """
        if (self.path / "manifest.json").exists():
            return self
        name = self.manifest.name
        try:
            return PackedDataset(open_dataset(name).path, self.manifest)
        except UnknownDatasetError:
            raise DataError(
                f"node {socket.gethostname()} has no dataset {name}: set RAYCLS_STORAGE to a path that all nodes "
                f"share, and `raycls data push {name}` where it is prepared"
            ) from None

    def verify(self) -> None:
        """Read every byte again. Raises DataError that names the first file which is not as prepared."""
        for array in ARRAYS:
            if sha256_file(self.path / array) != self.manifest.sha256[array]:
                raise _damaged(self.manifest.name, f"{array} does not have the SHA-256 of its manifest")

    def check(self) -> None:
        """Compare the manifest with itself and with every array's type and shape, reading no pixel.

        Raises DataError that names what is missing, cut short or mismatched.
        """
        manifest = self.manifest
        if manifest.fingerprint != fingerprint(manifest.sha256, manifest.classes, manifest.image_size):
            raise _damaged(manifest.name, "the fingerprint in manifest.json does not belong to its hashes")
        for array in ARRAYS:
            split, kind = array.split("/")
            count, side = manifest.counts[split], manifest.image_size
            images = kind == "images.npy"
            expected = (np.uint8, (count, side, side, 3)) if images else (np.int64, (count,))
            try:
                found = np.load(self.path / array, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise _damaged(manifest.name, f"{array}: {error}") from error
            if (found.dtype, found.shape) != expected:
                raise _damaged(manifest.name, f"{array} is {found.dtype} {found.shape}, unlike its manifest")


def open_dataset(name: str) -> PackedDataset:
    """The prepared dataset `name`, checked in all but its pixels; where there is none, what was pushed under that name.

    Raises UnknownDatasetError (with the names that exist) or DataError (see `PackedDataset.check`).
    """
    from raycls.data import push_pull

    if name not in _names() and not push_pull.pull(name):
        raise UnknownDatasetError(
            f"no dataset {name!r}; prepared so far: {', '.join(_names()) or 'none'}. Make one with: "
            "raycls data prepare cifar10 (or digits, or the path of a folder of class folders)"
        )
    path = location(name) if location(name).exists() else retired_location(name)
    try:
        manifest = Manifest.model_validate_json((path / "manifest.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(name, f"manifest.json: {str(error).splitlines()[0]}") from error
    dataset = PackedDataset(path, manifest)
    dataset.check()
    return dataset


def list_datasets() -> list[Manifest]:
    """The manifests of all prepared datasets, by name. One that is damaged is told on stderr and left out."""
    manifests = []
    for name in _names():
        try:
            manifests.append(open_dataset(name).manifest)
        except DataError as error:
            say(str(error))
    return manifests


def fingerprint(sha256: dict[str, str], classes: tuple[str, ...], image_size: int) -> str:
    """64 hex digits over the hashes of the arrays, the class names in order and the image size."""
    return hashlib.sha256(json.dumps([sorted(sha256.items()), classes, image_size]).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def location(name: str) -> Path:
    return home.datasets() / name


def retired_location(name: str) -> Path:
    """Where a dataset lies while its replacement moves in: `open_dataset` finds it if that was killed."""
    return home.datasets() / f".{name}.old"


def _names() -> list[str]:
    if not home.datasets().is_dir():
        return []
    entries = (path.name for path in home.datasets().iterdir() if path.is_dir())
    names = (re.fullmatch(r"(?:\.(?P<retired>.+)\.old|(?P<name>[^.].*))", entry) for entry in entries)
    return sorted({match["retired"] or match["name"] for match in names if match})


def _damaged(name: str, what: str) -> DataError:
    return DataError(f"dataset {name} is damaged: {what}; prepare it again with --force")
