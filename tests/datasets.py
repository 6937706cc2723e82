"""Small dataset versions of given pixels, for tests that need no source."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from raycls.data.manifest import SCHEMA, LeftOut, left_out_table
from raycls.data.packed import SPLITS, PackedDataset, Store
from raycls.data.shards import Shards
from raycls.data.writer import VersionWriter, next_version, reserved, write_version


def make_version(
    name: str,
    images: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    classes: tuple[str, ...],
    *,
    mirrorable: bool = True,
    source: str = "{split}/{index}",
    store: Store = "packed",
) -> PackedDataset:
    """Write the next version of a dataset. images and labels: for each split; a split may be missing.

    source: each image's source in the rows.
    """
    with reserved(name), write_version(name, next_version(name)) as writer:
        if store == "packed":
            fill(writer, images)
        else:
            encode(writer, images, labels)
        return publish(writer, images, labels, classes, mirrorable=mirrorable, source=source)


def count_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of each block that is read from shards from now on."""
    read: list[int] = []
    block = Shards.block

    def counted(self: Shards, number: int) -> object:
        read.append(number)
        return block(self, number)

    monkeypatch.setattr(Shards, "block", counted)
    return read


def colours(side: int, counts: dict[str, int]) -> PackedDataset:
    """Write a dataset of red and blue images with noise, in turns. counts: the images of each split."""
    random = np.random.default_rng(0)
    labels = {split: np.arange(count) % 2 for split, count in counts.items()}
    images = {
        split: random.integers(0, 90, (count, side, side, 3), dtype=np.uint8)
        for split, count in counts.items()
    }
    for split, known in labels.items():
        images[split][known == 0, :, :, 0] += 120
        images[split][known == 1, :, :, 2] += 120
    return make_version("colours", images, labels, ("red", "blue"))


def fill(writer: VersionWriter, images: dict[str, np.ndarray]) -> None:
    side = images["train"].shape[1]
    for split in SPLITS:
        pixels = images.get(split, np.empty((0, side, side, 3), np.uint8))
        writer.array(split, len(pixels), side)[:] = pixels


def encode(writer: VersionWriter, images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
    side = images["train"].shape[1]
    for split in SPLITS:
        pixels = images.get(split, np.empty((0, side, side, 3), np.uint8))
        with writer.encoder(split, labels.get(split, np.empty(0, np.int64)), side) as encoder:
            encoder.add_pixels(pixels)


def encoded_copy(dataset: PackedDataset, name: str) -> PackedDataset:
    """Write a version with the same images, stored encoded."""
    images = {split: np.array(dataset.images(split)) for split in dataset.info.counts}
    labels = {split: dataset.labels(split) for split in dataset.info.counts}
    info = dataset.info
    return make_version(name, images, labels, info.classes, mirrorable=info.mirrorable, store="encoded")


def publish(
    writer: VersionWriter,
    images: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    classes: tuple[str, ...],
    *,
    mirrorable: bool = True,
    source: str = "{split}/{index}",
) -> PackedDataset:
    rows = [
        {
            "source": source.format(split=split, index=index),
            "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "label": classes[labels[split][index]],
            "split": split,
            "group": f"{split}/{index}",
        }
        for split in SPLITS
        for index, pixels in enumerate(images.get(split, ()))
    ]
    return writer.publish(
        classes=classes,
        labels={split: labels.get(split, np.empty(0, np.int64)) for split in SPLITS},
        mirrorable=mirrorable,
        source="a test",
        licence="none",
        rows=pa.Table.from_pylist(rows, SCHEMA),
        left_out=left_out_table([LeftOut("circle/notes.txt", "ignored", "no image")]),
    )
