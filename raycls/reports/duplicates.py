"""Near-duplicates: images that a model is measured on and that, almost the same, it was trained on.

    found = near_duplicates(examples, trained, mirrored=True)
    found.count, found.pairs[0].correlation

Each image is shrunk to at most SIDE pixels a side, its mean is taken off and its contrast divided out; two images are
near-duplicates where the correlation of what is left reaches THRESHOLD. A change of brightness, contrast, compression
or size hides nothing, a crop or a turn may. Published sets have them: 3% of CIFAR-10's test images (Barz and Denzler,
"Do We Train on Test Data?", arXiv:1902.00423). Knows pixels and labels only.
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
MOST = 10_000  # examples that are looked up; more are sampled
BLOCK = 2048  # training images compared at a time, which bounds the memory


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An example and the training image most like it: indices into either, and their correlation (at most 1)."""

    example: int
    trained: int
    correlation: float


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """pairs: the near-duplicates found among `looked_up` examples, one per example, the most alike first.

    relabelled counts those whose training image is of another class.
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
    """The training images most like each example. mirrored: an example's mirror image counts as itself."""
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
    """float32 N×3×s×s of unit length each; an image of one single colour becomes 0 and is like nothing."""
    images = as_tensor(pixels).permute(0, 3, 1, 2).float()
    small = F.interpolate(images, size=[min(SIDE, images.shape[-1])] * 2, mode="bilinear", antialias=True)
    centred = small - small.mean((1, 2, 3), keepdim=True)
    # Below one grey level of 255, what is left is rounding.
    length = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
    return torch.where(length < 1, 0, F.normalize(centred.flatten(1)).view_as(centred))
