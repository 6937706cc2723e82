"""A tiny dataset with a value in every field of its description, for the tests of this folder."""

import numpy as np

from raycls.data.packed import PackedDataset
from tests.datasets import make_version

SIDE = 8
PIXELS = np.random.default_rng(1).integers(0, 256, (30, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = np.arange(30) % 2
PARTS = {
    "train": np.arange(20),
    "val": np.arange(20, 24),
    "gate": np.arange(24, 26),
    "test": np.arange(26, 30),
}
CLASSES = ("circle", "square")


def images(pixels: np.ndarray = PIXELS) -> dict[str, np.ndarray]:
    return {split: pixels[indices] for split, indices in PARTS.items()}


def labels() -> dict[str, np.ndarray]:
    return {split: LABELS[indices] for split, indices in PARTS.items()}


def make(
    name: str = "shapes", pixels: np.ndarray = PIXELS, classes: tuple[str, ...] = CLASSES
) -> PackedDataset:
    return make_version(name, images(pixels), labels(), classes)
