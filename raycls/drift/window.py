"""Sums over the images that a replica meets, in constant memory.

    window = Window(reference)
    window.update(probabilities, embeddings, images, sizes)      # after each forward pass
    sums = window.take()                                         # and the next window begins
    (sums + sums_of_another_replica).as_json()

`update` keeps what it is given. The sums are made for 64 images or more at once, which costs a tenth of doing it
image by image. Costs: benchmarks/results/drift.md.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycls.drift.features import PICTURE_FEATURES, measure, sample_rows, side_lengths
from raycls.drift.reference import Reference, count

HELD, HELD_BYTES = 64, 4 * 2**20  # images that wait for the sums, and the bytes of their pixels


Sizes = np.ndarray | Sequence[tuple[int, int]]


@dataclass(frozen=True)
class WindowSums:
    """What a window saw. Sums of several replicas can be added if they have the same reference.

    images: how many. classes: int64 C, by predicted class. features: for each, int64 images by bin of the reference.
    embedded: images whose embedding was finite. fourier: float64 256, the sum of their Fourier features.
    """

    images: int
    classes: np.ndarray
    features: dict[str, np.ndarray]
    embedded: int
    fourier: np.ndarray

    @classmethod
    def empty(cls, reference: Reference) -> WindowSums:
        features = {name: np.zeros(len(bins.counts), int) for name, bins in reference.features.items()}
        return cls(0, np.zeros(len(reference.classes), int), features, 0, np.zeros(len(reference.mean)))

    def __add__(self, other: WindowSums) -> WindowSums:
        return WindowSums(
            self.images + other.images,
            self.classes + other.classes,
            {name: counts + other.features[name] for name, counts in self.features.items()},
            self.embedded + other.embedded,
            self.fourier + other.fourier,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "classes": self.classes.tolist(),
            "features": {name: counts.tolist() for name, counts in self.features.items()},
            "embedded": self.embedded,
            "fourier": self.fourier.tolist(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> WindowSums:
        return cls(
            content["images"],
            np.array(content["classes"], int),
            {name: np.array(counts, int) for name, counts in content["features"].items()},
            content["embedded"],
            np.array(content["fourier"], float),
        )


class Window:
    """The sums that one replica is making. Any thread may call its methods."""

    def __init__(self, reference: Reference):
        self._reference, self._fourier = reference, reference.fourier
        self._edges = {name: np.array(bins.edges, np.float32) for name, bins in reference.features.items()}
        self._held: list[tuple[np.ndarray, np.ndarray, np.ndarray, Sizes]] = []
        self._held_images = self._held_bytes = 0
        self._sums = WindowSums.empty(reference)
        self._lock = threading.Lock()

    def update(
        self, probabilities: np.ndarray, embeddings: np.ndarray, images: np.ndarray, sizes: Sizes
    ) -> None:
        """Add one batch: float32 N×C, float32 N×D, uint8 N×S×S×3, and int N×2, width and height before resizing.

        All are kept until the sums are made: do not change them.
        """
        with self._lock:
            if self._held and self._held[-1][2].shape[1:] != images.shape[1:]:
                self._add_held()
            self._held.append((probabilities, embeddings, images, sizes))
            self._held_images += len(images)
            self._held_bytes += images.nbytes
            if self._held_images >= HELD or self._held_bytes >= HELD_BYTES:
                self._add_held()

    @property
    def images(self) -> int:
        """How many images the window has seen."""
        return self._sums.images + self._held_images

    def take(self) -> WindowSums:
        """Return the sums so far, and begin the next window."""
        with self._lock:
            if self._held:
                self._add_held()
            taken, self._sums = self._sums, WindowSums.empty(self._reference)
        return taken

    def _add_held(self) -> None:
        held, images = zip(*self._held, strict=True), self._held_images
        # First: what cannot be added is not tried again.
        self._held = []
        self._held_images = self._held_bytes = 0
        probabilities, embeddings, pixels, sizes = map(np.concatenate, held)
        values = dict(zip(PICTURE_FEATURES, measure(sample_rows(pixels)), strict=True))
        values |= {"confidence": probabilities.max(1), "size": side_lengths(sizes)}
        features = self._fourier(embeddings)
        sums = self._sums
        for name, edges in self._edges.items():
            sums.features[name] += count(values[name], edges)
        sums.classes[:] += np.bincount(probabilities.argmax(1), minlength=len(sums.classes))
        finite = np.isfinite(features[:, 0])
        sums.fourier[:] += features.sum(0) if finite.all() else features[finite].sum(0)
        self._sums = WindowSums(
            sums.images + images,
            sums.classes,
            sums.features,
            sums.embedded + int(finite.sum()),
            sums.fourier,
        )
