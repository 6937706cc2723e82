"""A part of a dataset version to train on: all but one of several folds, or several splits together.

    subset = Subset(folds=5, fold=2)               # trains on four fifths of train and val; the second one is its val
    subset = Subset()                              # trains on train and val together, with no val
    with opened(dataset, subset) as part:          # a dataset with the splits train and val
        part.images("train")

Folds hold about as many images of each class, and images of one group are in one fold. The part is a copy on disk as
long as it is open: a training reads it as any other dataset. This module knows arrays and rows, not trainings.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycls import home, progress
from raycls.data.manifest import read_rows
from raycls.data.packed import DatasetInfo, PackedDataset
from raycls.data.pixels import SplitPixels, fill
from raycls.data.room import check_room
from raycls.data.splits import folds
from raycls.data.writer import VersionWriter
from raycls.errors import UsageError

LEARNED = "train", "val"  # gate and test stay unseen
FOLDER = "cache/subsets"
SHAPES = "shards.json"  # of a part: `DatasetInfo.shards`
LOCK = "subsets.lock"  # held while copies are made and deleted
FORGOTTEN_S = 24 * 3600  # age of a part after which the next one deletes it: its training was killed


class Subset(BaseModel):
    """Which images a training learns from: of these splits all, or all but one fold, which validates it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    splits: tuple[str, ...] = LEARNED
    folds: int = Field(0, ge=0, description="into which the splits together are divided; 0: they are not")
    fold: int = Field(0, ge=0, description="the one that validates, from 1")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Subset:
        if self.folds == 1 or bool(self.folds) != bool(self.fold) or self.fold > self.folds:
            raise ValueError(f"there is no fold {self.fold} of {self.folds}")
        return self

    def rows(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of the images that train and of those that validate, int64."""
        if not self.folds:
            return np.arange(len(images.labels)), np.arange(0)
        fold_of = images.folds(self.folds)
        return np.flatnonzero(fold_of != self.fold - 1), np.flatnonzero(fold_of == self.fold - 1)


class Images:
    """The images of several splits as one sequence, in the order of the manifest. `pixels` reads what is asked for."""

    def __init__(self, dataset: PackedDataset, splits: tuple[str, ...] = LEARNED):
        self._dataset = dataset
        self.splits = tuple(split for split in dataset.info.counts if split in splits)
        self.labels = np.concatenate([dataset.labels(split) for split in self.splits])
        self.pixels = SplitPixels(dataset, self.splits)

    def groups(self) -> np.ndarray:
        """Return the group of each image: str N. Without rows, as in old versions, each image is its own."""
        rows = read_rows(self._dataset)
        if not len(rows):
            return np.arange(len(self.labels)).astype(str)
        chosen = np.isin(rows["split"].to_numpy(zero_copy_only=False).astype(str), self.splits)
        return rows["group"].to_numpy(zero_copy_only=False).astype(str)[chosen]

    def folds(self, count: int) -> np.ndarray:
        """Return the fold of each image, int64 N from 0. Raises UsageError where there are fewer groups than folds."""
        groups = self.groups()
        if (found := len(np.unique(groups))) < count:
            raise UsageError(
                f"{self._dataset.info.reference} has {found} groups of images, which {count} folds cannot divide: "
                "take fewer folds"
            )
        return folds(self.labels, groups, count)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at M positions: uint8 M×S×S×3."""
        return self.pixels(positions)


def described(dataset: PackedDataset, subset: Subset) -> PackedDataset:
    """Return the part with its counts alone, without arrays: for checks before a training."""
    images = Images(dataset, subset.splits)
    return _described(dataset, images, *subset.rows(images))


@contextmanager
def opened(dataset: PackedDataset, subset: Subset) -> Iterator[PackedDataset]:
    """Yield the part as a dataset with the splits train and val. Its copy is deleted at the end.

    Processes of one machine share the copy: each opens hard links to it, and the last one deletes it. Raises DataError
    if the disk is too small, and UsageError as `Images.folds`.
    """
    info = dataset.info
    above = home.home() / FOLDER
    name = f"{info.fingerprint[:16]}-{'-'.join(subset.splits)}-{subset.fold}-of-{subset.folds}"
    shared, aside, own = above / name, above / f"{name}.tmp", above / f"{name}.{uuid.uuid4().hex}"
    images = Images(dataset, subset.splits)
    rows = subset.rows(images)
    with home.lock(LOCK, "", wait=True):
        above.mkdir(parents=True, exist_ok=True)
        for other in above.iterdir():
            unfinished = other.suffix == ".tmp"  # of a process that was killed: this one has the lock
            if unfinished or (other != shared and time.time() - other.stat().st_mtime > FORGOTTEN_S):
                shutil.rmtree(other, ignore_errors=True)
        if not (shared / SHAPES).exists():
            shutil.rmtree(shared, ignore_errors=True)  # an earlier raycls made it
            check_room(dataset, images.splits, above)
            aside.mkdir()
            _write(VersionWriter(info.name, info.version, aside), info, images, *rows)
            aside.rename(shared)
        shutil.copytree(shared, own, copy_function=os.link)
        for used in (shared, own):  # a copy has the age of the original
            os.utime(used)
    try:
        part = _described(dataset, images, *rows).info
        yield PackedDataset(own, part.model_copy(update={"shards": json.loads((own / SHAPES).read_text())}))
    finally:
        with home.lock(LOCK, "", wait=True):
            shutil.rmtree(own, ignore_errors=True)
            if shared.exists() and (shared / "train" / "labels.npy").stat().st_nlink == 1:
                shutil.rmtree(shared, ignore_errors=True)


def _described(dataset: PackedDataset, images: Images, train: np.ndarray, val: np.ndarray) -> PackedDataset:
    of_class = [
        tuple(np.bincount(images.labels[rows], minlength=len(dataset.info.classes)).tolist())
        for rows in (train, val)
    ]
    counts = {"train": len(train), "val": len(val)}
    changed = {"counts": counts, "class_counts": dict(zip(counts, of_class, strict=True))}
    return replace(dataset, info=dataset.info.model_copy(update=changed))


def _write(
    writer: VersionWriter, info: DatasetInfo, images: Images, train: np.ndarray, val: np.ndarray
) -> None:
    """Write the part's arrays or shards, and its description of the shards."""
    with progress.bar(f"copying {info.reference} for this training", len(train) + len(val)) as bar:
        for split, rows in (("train", train), ("val", val)):
            labels = images.labels[rows]
            source = images.pixels
            fill(writer, split, info.store, source, rows, labels, info.image_size, bar.advance, measure=False)
            np.save(writer.path / split / "labels.npy", labels)
    (writer.path / SHAPES).write_text(json.dumps(writer.shapes()))
