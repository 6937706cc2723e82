"""Finds near-duplicates: test images that are almost the same as a training image.

    found = near_duplicates(examples, trained, mirrored=True)
    found.count, found.pairs[0].correlation

Two images are near-duplicates if the correlation of their descriptors reaches NEAR; raycls/data/similarity.py defines
both. Where a source states its own splits, `raycls data prepare` leaves such copies where they are. 3% of CIFAR-10's
test images have a near-duplicate (Barz and Denzler, "Do We Train on Test Data?", arXiv:1902.00423). The search may miss
copies that are cropped or rotated. This module knows only pixels and labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from raycls import progress
from raycls.data.similarity import NEAR, descriptors
from raycls.engines.examples import Examples

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
        [
            torch.from_numpy(descriptors(examples.pixels(part)))
            for part in np.array_split(chosen, -(-count // BLOCK))
        ]
    )
    sides = [mine.flatten(1), *([mine.flip(3).flatten(1)] if mirrored else [])]
    best, where = torch.full((count,), -1.0), torch.zeros(count, dtype=torch.int64)
    with progress.bar(
        f"looking for {count} images among {len(trained)} training images", len(trained)
    ) as bar:
        for start in range(0, len(trained), BLOCK):
            theirs = torch.from_numpy(descriptors(trained.pixels(slice(start, start + BLOCK)))).flatten(1)
            for side in sides:
                value, place = (side @ theirs.T).max(1)
                better = value > best
                best, where = torch.where(better, value, best), torch.where(better, place + start, where)
            bar.advance(len(theirs))
    near = torch.nonzero(best >= NEAR).flatten()
    near = near[best[near].argsort(descending=True, stable=True)]
    pairs = tuple(
        Pair(example=int(chosen[i]), trained=int(where[i]), correlation=min(1.0, best[i].item()))
        for i in near
    )
    relabelled = sum(
        examples.classes[examples.labels[pair.example]] != trained.classes[trained.labels[pair.trained]]
        for pair in pairs
    )
    return Duplicates(threshold=NEAR, looked_up=count, pairs=pairs, relabelled=relabelled)
