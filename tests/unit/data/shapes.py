"""A tiny dataset with a value in every field of its manifest, for the tests of this folder."""

import numpy as np

from raycls.data.packed import PackedDataset, SkippedFile
from raycls.data.writer import DatasetWriter, write_dataset

SIDE = 8
PIXELS = np.random.default_rng(1).integers(0, 256, (30, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = np.arange(30) % 2
PARTS = {"train": np.arange(20), "val": np.arange(20, 26), "test": np.arange(26, 30)}


def fill(writer: DatasetWriter, pixels: np.ndarray = PIXELS) -> None:
    for split, indices in PARTS.items():
        writer.fill(split, pixels, indices)


def publish(writer: DatasetWriter, classes: tuple[str, ...] = ("circle", "square")) -> PackedDataset:
    return writer.publish(
        classes=classes,
        labels={split: LABELS[indices] for split, indices in PARTS.items()},
        mirrorable=True,
        source="a test",
        licence="none",
        skipped=(SkippedFile(path="circle/notes.txt", reason="no image"),),
    )


def make(
    name: str = "shapes", pixels: np.ndarray = PIXELS, classes: tuple[str, ...] = ("circle", "square")
) -> PackedDataset:
    with write_dataset(name) as writer:
        fill(writer, pixels)
        return publish(writer, classes)
