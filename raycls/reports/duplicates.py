"""Finds near-duplicates: test images that are almost the same as a training image.

    found = near_duplicates(examples, trained, mirrored=True)
    found.count, found.pairs[0].correlation

Each image is shrunk to at most SIDE pixels a side, and its brightness and contrast are normalised. Two images are
near-duplicates if their correlation then reaches THRESHOLD. The search finds copies with another brightness, contrast,
compression or size. It may miss copies that are cropped or rotated. Published datasets contain near-duplicates: 3% of
CIFAR-10's test images have one (Barz and Denzler, "Do We Train on Test Data?", arXiv:1902.00423). This module knows
only pixels and labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycls import progress
from raycls.data.tensors import as_tensor
from raycls.training.evaluation import Examples

SIDE = 16
THRESHOLD = 0.97
MOST = 10_000  # examples to look up; a larger set is sampled
BLOCK = 2048  # training images compared at a time, which limits memory use


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An example and its most similar training image: their indices, and their correlation (at most 1)."""

    example: int
    trained: int
    correlation: float


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The near-duplicates among `looked_up` examples.

    pairs: at most one pair per example, the most similar pair first.
    relabelled: the number of pairs whose two images have different classes.
    """

    threshold: float
    looked_up: int
    pairs: tuple[Pair, ...]
    relabelled: int

    @property
    def count(self) -> int:
        return len(self.pairs)

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, **asdict(self)}


def near_duplicates(examples: Examples, trained: Examples, *, mirrored: bool) -> Duplicates:
    """Return the examples that have a near-duplicate in `trained`. mirrored: compare mirror images too."""
    chosen = examples.drawn(MOST)
    count = len(chosen)
    mine = torch.cat(
        [_descriptors(examples.pixels(part)) for part in np.array_split(chosen, -(-count // BLOCK))]
    )
    sides = [mine.flatten(1), *([mine.flip(3).flatten(1)] if mirrored else [])]
    best, where = torch.full((count,), -1.0), torch.zeros(count, dtype=torch.int64)
    with progress.bar(
        f"looking for {count} images among {len(trained)} training images", len(trained)
    ) as bar:
        for start in range(0, len(trained), BLOCK):
            theirs = _descriptors(trained.pixels(slice(start, start + BLOCK))).flatten(1)
            for side in sides:
                value, place = (side @ theirs.T).max(1)
                better = value > best
                best, where = torch.where(better, value, best), torch.where(better, place + start, where)
            bar.advance(len(theirs))
    near = torch.nonzero(best >= THRESHOLD).flatten()
    near = near[best[near].argsort(descending=True, stable=True)]
    pairs = tuple(
        Pair(example=int(chosen[i]), trained=int(where[i]), correlation=min(1.0, best[i].item()))
        for i in near
    )
    relabelled = sum(
        examples.classes[examples.labels[pair.example]] != trained.classes[trained.labels[pair.trained]]
        for pair in pairs
    )
    return Duplicates(threshold=THRESHOLD, looked_up=count, pairs=pairs, relabelled=relabelled)


def _descriptors(pixels: np.ndarray) -> Tensor:
    """Return one unit vector per image: float32 N×3×s×s. An image of one colour becomes 0 and matches nothing."""
    images = as_tensor(pixels).permute(0, 3, 1, 2).float()
    small = F.interpolate(images, size=[min(SIDE, images.shape[-1])] * 2, mode="bilinear", antialias=True)
    centred = small - small.mean((1, 2, 3), keepdim=True)
    # A contrast below one grey level of 255 is only rounding.
    length = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
    return torch.where(length < 1, 0, F.normalize(centred.flatten(1)).view_as(centred))
