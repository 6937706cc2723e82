"""How alike images are: a perceptual hash that finds candidates, and a correlation that confirms them.

    hashes = perceptual_hashes(images)              # uint64 N, of uint8 N×S×S×3
    unit = descriptors(images)                      # float32 N×3×s×s; unit[i].ravel() @ unit[j].ravel() is at most 1

This module knows pixels only. It does not import PyTorch, because the workers that decode images call it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.fft import dct

SIDE = 16  # pixels a side of the shrunk images that are compared
NEAR = 0.97  # correlation from which two images are near-duplicates
LEAST_CONTRAST = 1.0  # grey levels of 255: a smaller standard deviation is only rounding


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """Return a hash of 64 bits for each image, uint64 N. images: uint8 N×S×S×3 with S ≥ 8.

    The bits say which of the 8×8 lowest frequencies of the grey image are above their median, as in pHash (C. Zauner,
    Implementation and Benchmarking of Perceptual Image Hash Functions, 2010). Copies of other size, compression or
    brightness differ in few bits.
    """
    grey = images.astype(np.float32) @ np.full(3, 1 / 3, dtype=np.float32)
    basis = _low_frequencies(images.shape[1])
    # Two large products: NumPy multiplies a stack of small matrices one after another.
    waves = np.tensordot(np.tensordot(grey, basis, (2, 1)), basis, (1, 1)).reshape(len(images), 64)
    bits = waves > np.median(waves[:, 1:], axis=1, keepdims=True)  # the first one is the mean brightness
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def descriptors(images: np.ndarray) -> np.ndarray:
    """Return one unit vector for each image, as float32 N×3×s×s with s = min(SIDE, S). images: uint8 N×S×S×3.

    Each image is shrunk, and its brightness and contrast are normalised. An image of one colour becomes 0 and is like
    nothing.
    """
    shrink = _averages(images.shape[1], min(SIDE, images.shape[1]))
    small = shrink @ images.transpose(0, 3, 1, 2).astype(np.float32) @ shrink.T
    small -= small.mean((1, 2, 3), keepdims=True)
    length = np.sqrt(np.square(small).sum((1, 2, 3), keepdims=True))
    blank = length < LEAST_CONTRAST * np.sqrt(small[0].size if len(small) else 1)
    return np.where(blank, 0, small / np.maximum(length, 1e-12)).astype(np.float32)


@lru_cache
def _low_frequencies(side: int) -> np.ndarray:
    """Return the 8 lowest rows of the cosine transform: float32 8×side."""
    return dct(np.eye(side), axis=0, norm="ortho")[:8].astype(np.float32)


@lru_cache
def _averages(side: int, smaller: int) -> np.ndarray:
    """Return the matrix that averages neighbouring pixels by area: float32 smaller×side."""
    edges = np.linspace(0, side, smaller + 1)
    pixels = np.arange(side)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(covered, 0, None) * (smaller / side)).astype(np.float32)
