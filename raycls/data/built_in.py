"""The datasets that raycls knows by name: CIFAR-10, and the digits of scikit-learn.

    made = images("digits", root=None, scratch=Path("/tmp"))
    made.images.labels

Their images have no files: a row's source is the place of the image in the published arrays.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raycls.data import cifar10
from raycls.data.assemble import Images
from raycls.data.pixels import Pixels
from raycls.data.similarity import perceptual_hashes
from raycls.data.splits import SHARES

NAMES = ("cifar10", "digits")
# Of CIFAR-10's 50,000 training images: 45,000, 3,500 and 1,500. The 10,000 test images are the published ones.
CIFAR10_SHARES = {"train": 0.9, "val": 0.07, "gate": 0.03, "test": 0.0}


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    images: Images
    side: int
    mirrorable: bool
    source: str
    licence: str
    shares: dict[str, float]


def images(name: str, root: Path | None, scratch: Path) -> BuiltIn:
    """Return the images of a built-in dataset. For root and for the errors see `raycls.data.cifar10.fetch`."""
    return _cifar10(root, scratch) if name == "cifar10" else _digits()


def _cifar10(root: Path | None, scratch: Path) -> BuiltIn:
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=scratch) as folder:
        arrays, origin = cifar10.fetch(root, Path(folder))
    pixels = np.concatenate([arrays[part][0] for part in ("train", "test")])
    labels = np.concatenate([arrays[part][1] for part in ("train", "test")])
    counts = {part: len(arrays[part][1]) for part in ("train", "test")}
    return BuiltIn(
        images=_images(pixels, labels, cifar10.CLASSES, counts),
        side=32,
        mirrorable=True,
        source=f"CIFAR-10, from {origin}",
        licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features, 2009",
        shares=CIFAR10_SHARES,
    )


def _digits() -> BuiltIn:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn's values are 0..16
    pixels = np.repeat(grey[..., None], 3, axis=3)
    return BuiltIn(
        images=_images(pixels, digits.target.astype(np.int64), tuple("0123456789"), {"": len(pixels)}),
        side=8,
        mirrorable=False,
        source="the digits of scikit-learn",
        licence="CC BY 4.0: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
        shares=SHARES,
    )


def _images(
    pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], counts: dict[str, int]
) -> Images:
    """Return images of which counts says how many lie in each published split, in order; "" for none."""
    count, side = len(pixels), pixels.shape[1]
    own = np.concatenate([np.full(number, part, dtype=object) for part, number in counts.items()])
    sources = [f"{part}/{row}".lstrip("/") for part, number in counts.items() for row in range(number)]
    hashes = [perceptual_hashes(pixels[start : start + 1000]) for start in range(0, count, 1000)]
    return Images(
        columns={
            "source": np.array(sources, dtype=object),
            "sha256": np.array(
                [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels], dtype=object
            ),
            "width": np.full(count, side),
            "height": np.full(count, side),
            "mode": np.full(count, "RGB", dtype=object),
            "phash": np.concatenate(hashes),
            "noticed": np.full(count, "", dtype=object),
            "own_split": own,
            "key": np.full(count, "", dtype=object),
        },
        labels=labels,
        classes=classes,
        pixels=_Array(pixels),
        official=True,
    )


class _Array(Pixels):
    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return self._pixels[positions]

    def copy(self, positions: np.ndarray, out: np.ndarray, to: np.ndarray) -> None:
        out[to] = self._pixels[positions]
