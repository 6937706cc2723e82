"""Measures accuracy on damaged images: noise, blur, JPEG compression, low contrast and low resolution.

    measured = robustness(predictor, examples)
    measured.rows[0].name, measured.rows[0].accuracies, measured.clean

Each kind of damage has three strengths. The kinds come from ImageNet-C (Hendrycks and Dietterich, arXiv:1903.12261).
Blur and low resolution are relative to the image size, so images of 32 and 224 pixels are damaged equally. This module
knows a predictor and pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image
from torch import Tensor

from raycls import progress
from raycls.data.tensors import as_tensor
from raycls.engines.examples import Examples
from raycls.engines.predictor import Predictor

IMAGES, LEAST_IMAGES = 2000, 500  # images: most (up to 64 pixels a side) and fewest (for large images)


def _noise(images: Tensor, sigma: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator) * (255 * sigma)
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def _blur(images: Tensor, share: float) -> Tensor:
    side = images.shape[-1]
    sigma = share * side
    reach = min(math.ceil(3 * sigma), (side - 1) // 2)
    return transforms.gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)


def _jpeg(images: Tensor, quality: float) -> Tensor:
    return torch.stack([_through_jpeg(image, int(quality)) for image in images])


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format="JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def _resolution(images: Tensor, share: float) -> Tensor:
    side = images.shape[-1]
    small = transforms.resize(images, [max(1, round(share * side))] * 2, antialias=True)
    return transforms.resize(small, [side, side], antialias=True)


@dataclass(frozen=True)
class _Kind:
    name: str
    unit: str  # format string for the strength
    strengths: tuple[float, float, float]
    damage: Callable[[Tensor, float], Tensor]


KINDS = (
    _Kind("noise", "σ {:.0%} of the range", (0.04, 0.08, 0.16), _noise),
    _Kind("blur", "σ {:.1%} of the side", (0.015, 0.03, 0.06), _blur),
    _Kind("JPEG compression", "quality {:.0f}", (50, 20, 8), _jpeg),
    _Kind("low contrast", "{:.0%} of it left", (0.5, 0.3, 0.15), transforms.adjust_contrast),
    _Kind("low resolution", "{:.0%} of the side", (0.75, 0.5, 0.25), _resolution),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of damage. For each strength: its description, the accuracy (0..1) and an example (uint8 S×S×3)."""

    name: str
    settings: tuple[str, ...]
    accuracies: tuple[float, ...]
    shown: tuple[np.ndarray, ...]


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """The accuracy on `images` images. clean: undamaged. shown: the undamaged example of the rows (uint8 S×S×3)."""

    images: int
    clean: float
    shown: np.ndarray
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        rows = [{k: v for k, v in asdict(row).items() if k != "shown"} for row in self.rows]
        return {"images": self.images, "clean": self.clean, "rows": rows}


def damaged(pixels: np.ndarray, kind: _Kind, strength: float) -> np.ndarray:
    """Return damaged images (uint8 N×S×S×3). The result is always the same for the same images."""
    images = as_tensor(pixels).permute(0, 3, 1, 2)
    return np.ascontiguousarray(kind.damage(images, strength).permute(0, 2, 3, 1).numpy())


def robustness(predictor: Predictor, examples: Examples) -> Robustness:
    """Return the accuracy by kind and strength of damage, measured on at most IMAGES examples."""
    most = max(LEAST_IMAGES, min(IMAGES, round(IMAGES * (64 / predictor.card.image_size) ** 2)))
    chosen = examples.only(examples.drawn(most))
    count, done = len(chosen), 0
    variants: list[tuple[_Kind | None, float]] = [(None, 0.0)]
    variants += [(kind, strength) for kind in KINDS for strength in kind.strengths]
    right = np.zeros(len(variants), dtype=np.int64)
    with progress.bar(f"damaging {count} images in {len(variants) - 1} ways", len(variants) * count) as bar:
        for pixels in chosen.batches():
            labels = chosen.labels[done : done + len(pixels)]
            done += len(pixels)
            for i, (kind, strength) in enumerate(variants):
                worse = damaged(pixels, kind, strength) if kind else pixels
                answers = predictor.logits(worse)[:, examples.columns].argmax(1)
                right[i] += (answers == labels).sum()
                bar.advance(len(pixels))
    accuracies = iter((right[1:] / count).tolist())
    example = chosen.pixels(slice(1))
    return Robustness(
        images=count,
        clean=float(right[0] / count),
        shown=example[0],
        rows=tuple(
            Row(
                name=kind.name,
                settings=tuple(kind.unit.format(strength) for strength in kind.strengths),
                accuracies=tuple(next(accuracies) for _ in kind.strengths),
                shown=tuple(damaged(example, kind, strength)[0] for strength in kind.strengths),
            )
            for kind in KINDS
        ),
    )
