"""The splits train and val of a dataset version at a smaller size, for a network that sees smaller images.

    smaller = at_size(dataset, 160)
    smaller.info.image_size, smaller.images("train").shape

The images are resized as `raycls data prepare` resizes. The copy is in the cache, where the trials of a study find it.
This module knows arrays, not trainings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np

from raycls import home, progress
from raycls.data.packed import DatasetInfo, PackedDataset
from raycls.data.transforms import at_side
from raycls.data.writer import VersionWriter

FOLDER = "cache/resized"
LOCK = "resized.lock"  # held while a copy is made
BATCH = 512  # images that are resized at once
FORGOTTEN_S = 24 * 3600  # time without use after which the next copy deletes one


def sized(info: DatasetInfo, side: int | None) -> DatasetInfo:
    """Return the description with another size, pixels; None: with its own."""
    return info.model_copy(update={"image_size": side}) if side else info


def at_size(dataset: PackedDataset, side: int | None, part: str = "") -> PackedDataset:
    """Return the dataset with images of `side` pixels, in the splits train and val; None: as it is.

    part: which images of the version these are, where they are not its own splits (raycls/data/subsets.py). Raises
    DataError if the disk is too small.
    """
    info = sized(dataset.info, side)
    if info.image_size == dataset.info.image_size:
        return dataset
    if info.store == "encoded":  # what decodes them resizes them, too
        return dataclasses.replace(dataset, info=info)
    above = home.home() / FOLDER
    digest = hashlib.sha256(part.encode()).hexdigest()
    folder = above / f"{info.fingerprint[:16]}-{digest[:16]}-{info.image_size}"
    with home.lock(LOCK, "", wait=True):
        above.mkdir(parents=True, exist_ok=True)
        for other in above.iterdir():
            if other.suffix == ".tmp" or time.time() - other.stat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(other, ignore_errors=True)
        if folder.exists():
            os.utime(folder)
        else:
            _write(dataset, info, folder.with_suffix(".tmp"))
            folder.with_suffix(".tmp").rename(folder)
    return PackedDataset(folder, info)


def _write(dataset: PackedDataset, info: DatasetInfo, folder: Path) -> None:
    folder.mkdir()
    writer = VersionWriter(info.name, info.version, folder)
    counts = {split: info.counts[split] for split in ("train", "val")}
    with progress.bar(f"resizing to {info.image_size} pixels", sum(counts.values())) as bar:
        for split, count in counts.items():
            out = writer.array(split, count, info.image_size)
            np.save(writer.path / split / "labels.npy", dataset.labels(split))
            images = dataset.images(split)
            for start in range(0, count, BATCH):
                out[start : start + BATCH] = at_side(images[start : start + BATCH], info.image_size)
                bar.advance(min(BATCH, count - start))
