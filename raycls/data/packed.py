"""The packed dataset: the form in which training, evaluation and tuning read images.

    $RAYCLS_HOME/datasets/<name>/   manifest.json   {train,val,test}/images.npy   {train,val,test}/labels.npy

    dataset = open_dataset("cifar10")
    dataset.images("train")[0]        # uint8 32×32×3, memory-mapped: many processes share one copy

This module only reads; raycls/data/writer.py makes datasets. It knows arrays and directories. It does not know where
images come from.
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
    """A file of the source that is not in the dataset: its path, relative to the source, and the reason."""

    path: str
    reason: str


class Manifest(BaseModel):
    """The description of a dataset, in manifest.json.

    mean and std are per channel, of the training split, in units of the 0..1 range. image_size is the side in pixels.
    mirrorable says that an image keeps its class when it is mirrored left to right. sha256 holds the digest of each
    file in ARRAYS. fingerprint is 64 hex digits that change with any byte of any array, with the classes and with the
    image size.
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
    """A dataset on disk. The object is small and picklable: it maps an array into memory only when asked for it."""

    path: Path
    manifest: Manifest

    def images(self, split: str) -> np.memmap:
        """Return the images of a split: uint8 N×S×S×3, a read-only memory map."""
        return np.load(self.path / split / "images.npy", mmap_mode="r")

    def labels(self, split: str) -> np.ndarray:
        """Return the labels of a split: int64 N, indices into `manifest.classes`."""
        return np.load(self.path / split / "labels.npy")

    def here(self) -> PackedDataset:
        """Return the same dataset on this node of the cluster. Pull it from the storage path if the node lacks it.

        Raises DataError, which says how to copy the dataset, if it is not on the storage path either.
        """
        if (self.path / "manifest.json").exists():
            return self
        name = self.manifest.name
        try:
            return PackedDataset(open_dataset(name).path, self.manifest)
        except UnknownDatasetError:
            raise DataError(
                f"node {socket.gethostname()} has no dataset {name}: set RAYCLS_STORAGE to a path that all nodes "
                f"share, and run `raycls data push {name}` on the node that has it"
            ) from None

    def verify(self) -> None:
        """Read every byte and raise DataError, which names the first file that has changed since it was written."""
        for array in ARRAYS:
            if sha256_file(self.path / array) != self.manifest.sha256[array]:
                raise _damaged(self.manifest.name, f"{array} does not have the SHA-256 of its manifest")

    def check(self) -> None:
        """Compare the manifest with its fingerprint and with the dtype and shape of every array. Read no pixels.

        Raises DataError that names the missing, truncated or mismatched file.
        """
        manifest = self.manifest
        if manifest.fingerprint != fingerprint(manifest.sha256, manifest.classes, manifest.image_size):
            raise _damaged(manifest.name, "the fingerprint in manifest.json does not match its hashes")
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
                raise _damaged(
                    manifest.name,
                    f"{array} is {found.dtype} {found.shape}, which does not match its manifest",
                )


def open_dataset(name: str) -> PackedDataset:
    """Return the prepared dataset `name`, or pull the dataset that was pushed under that name.

    All of it is checked except the pixels. Raises UnknownDatasetError, which lists the existing names, or DataError
    (see `PackedDataset.check`).
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
    """Return the manifests of all prepared datasets, sorted by name. Report a damaged dataset on stderr and omit it."""
    manifests = []
    for name in _names():
        try:
            manifests.append(open_dataset(name).manifest)
        except DataError as error:
            say(str(error))
    return manifests


def fingerprint(sha256: dict[str, str], classes: tuple[str, ...], image_size: int) -> str:
    """Return 64 hex digits: a digest of the arrays' hashes, the class names in order and the image size."""
    return hashlib.sha256(json.dumps([sorted(sha256.items()), classes, image_size]).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def location(name: str) -> Path:
    return home.datasets() / name


def retired_location(name: str) -> Path:
    """Return the place of a dataset during its replacement. If that is interrupted, `open_dataset` finds it there."""
    return home.datasets() / f".{name}.old"


def _names() -> list[str]:
    if not home.datasets().is_dir():
        return []
    entries = (path.name for path in home.datasets().iterdir() if path.is_dir())
    names = (re.fullmatch(r"(?:\.(?P<retired>.+)\.old|(?P<name>[^.].*))", entry) for entry in entries)
    return sorted({match["retired"] or match["name"] for match in names if match})


def _damaged(name: str, what: str) -> DataError:
    return DataError(f"dataset {name} is damaged: {what}; prepare it again with --force")
