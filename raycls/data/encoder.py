"""Encodes the images of a split into its shards, and measures the pixels of train on the way.

with SplitEncoder(folder, "train", labels, side=224) as encoder:
    encoder.add_pixels(images)              # uint8 M×S×S×3, the next ones
encoder.histogram.statistics(), encoder.shape
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from raycls.data.codec import decode_all, encode_all, is_lossy
from raycls.data.shards import ShardShape, ShardWriter

Channels = tuple[float, float, float]


class Histogram:
    """How often each value occurs in each channel. So mean and deviation are exact and need little memory."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)

    def add(self, images: np.ndarray) -> None:
        """Count the pixels of uint8 M×S×S×3."""
        pixels = images.reshape(-1, 3)
        for channel in range(3):
            self._counts[channel] += np.bincount(pixels[:, channel], minlength=256)

    def statistics(self) -> tuple[Channels, Channels]:
        """Return mean and standard deviation of each channel, in units of the 0..1 range."""
        values = np.arange(256) / 255
        share = self._counts / self._counts.sum(axis=1, keepdims=True)
        mean = share @ values
        std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
        # A channel of one value has a standard deviation of 0. Half a grey level keeps the normalisation finite.
        red, green, blue = zip(mean.tolist(), np.maximum(std, 0.5 / 255).tolist(), strict=True)
        return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


class SplitEncoder:
    """The shards of one split while they are written. labels: int64, of all images.

    measure: decode what is encoded already, and count the pixels of train. A published version needs that.
    """

    def __init__(self, folder: Path, split: str, labels: np.ndarray, side: int, *, measure: bool = True):
        self.split, self.side, self.histogram = split, side, Histogram()
        self._measure = measure and split == "train"
        self._shards = ShardWriter(folder, labels)

    @property
    def shape(self) -> ShardShape:
        return self._shards.shape

    def __enter__(self) -> SplitEncoder:
        self._shards.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._shards.__exit__(kind, error, trace)

    def add_pixels(self, images: np.ndarray) -> None:
        """Encode and write the next images, uint8 M×S×S×3."""
        self.add([None] * len(images), images, np.arange(len(images)))

    def add(self, files: Sequence[bytes | None], images: np.ndarray, rows: np.ndarray) -> None:
        """Write the next images: `files` where there are, and `images` (uint8) for those that are None, at `rows`."""
        encoded = dict(zip(rows.tolist(), encode_all(images, is_lossy(self.split, self.side)), strict=True))
        self.add_files([encoded[row] if data is None else data for row, data in enumerate(files)])
        if self._measure:
            self.histogram.add(images)
            self.histogram.add(decode_all([data for data in files if data is not None], self.side))

    def add_files(self, files: Sequence[bytes]) -> None:
        """Write the next images, which are encoded already, without a look at their pixels."""
        self._shards.add(files)
