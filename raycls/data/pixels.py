"""Images by their position, wherever they are: what a new version is written from.

    pixels = SplitPixels(dataset, ("train", "val"))     # of an older version, as one sequence
    fill(writer, "train", "encoded", pixels, positions, labels, side=224)

An image that an older version stores encoded keeps its bytes: it is not encoded a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from raycls.data.codec import is_lossy
from raycls.data.encoded import EncodedImages
from raycls.data.packed import PackedDataset, Store
from raycls.data.writer import VersionWriter

BATCH = 512  # images that are in memory at once


class Pixels(Protocol):
    """Images of one size, by position. positions and to are int64 M."""

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return uint8 M×S×S×3."""
        ...

    def copy(self, positions: np.ndarray, out: np.ndarray, to: np.ndarray) -> None:
        """Copy images into out[to], without all of them in memory beside it."""
        for start in range(0, len(positions), BATCH):
            part = slice(start, start + BATCH)
            out[to[part]] = self(positions[part])

    def files(self, positions: np.ndarray, lossy: bool) -> list[bytes | None]:
        """Return the files of images that are encoded already; None for each that is still to be.

        lossy: a lossless file of an image that was never in a version is to be encoded, too.
        """
        return [None] * len(positions)


class SplitPixels(Pixels):
    """The images of several splits of a version as one sequence."""

    def __init__(self, dataset: PackedDataset, splits: tuple[str, ...]):
        self._stores = [dataset.images(split) for split in splits]
        self._starts = np.cumsum([0, *(dataset.info.counts[split] for split in splits)])
        self._side = dataset.info.image_size

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        found = np.empty((len(positions), self._side, self._side, 3), dtype=np.uint8)
        for store, chosen, rows in self._by_split(positions):
            found[chosen] = self._stores[store][rows]
        return found

    def files(self, positions: np.ndarray, lossy: bool) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(positions)
        for index, chosen, rows in self._by_split(positions):
            store = self._stores[index]
            if isinstance(store, EncodedImages):
                for position, data in zip(chosen, store.encoded(rows), strict=True):
                    found[position] = data
        return found

    def _by_split(self, positions: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return for each split that has some: its number, which of the positions, and their rows in it."""
        split_of = np.searchsorted(self._starts, positions, side="right") - 1
        chosen = [(index, np.flatnonzero(split_of == index)) for index in np.unique(split_of).tolist()]
        return [(index, mine, positions[mine] - self._starts[index]) for index, mine in chosen]


def fill(
    writer: VersionWriter,
    split: str,
    store: Store,
    pixels: Pixels,
    positions: np.ndarray,
    labels: np.ndarray,
    side: int,
    written: Callable[[int], object] = lambda count: None,
    *,
    measure: bool = True,
) -> None:
    """Write the images at these positions as a split. labels: int64, one for each. Raises DataError, or OSError.

    written: called with the number of images after each part. measure: see SplitEncoder.
    """
    if store == "packed":
        out = writer.array(split, len(positions), side)
        pixels.copy(positions, out, np.arange(len(positions)))
        written(len(positions))
        return  # which closes the memory map
    with writer.encoder(split, labels, side, measure=measure) as encoder:
        for start in range(0, len(positions), BATCH):
            part = positions[start : start + BATCH]
            files = pixels.files(part, is_lossy(split, side))
            missing = np.array([row for row, data in enumerate(files) if data is None], dtype=np.int64)
            encoder.add(files, pixels(part[missing]), missing)
            written(len(part))
