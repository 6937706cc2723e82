"""What drift looks at: properties of an image, and random features of its embedding.

    measured = measure(sample_rows(images))              # brightness, contrast and sharpness of each image
    fourier = FourierFeatures.fitted(embeddings)
    fourier(embeddings).mean(0)                          # describes the distribution of the embeddings

Both the reference and the replicas use this code. It knows arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

PICTURE_FEATURES = ("brightness", "contrast", "sharpness")
SAMPLED_ROWS = 8  # rows of pixels of each image that are measured: more would cost more than they tell
PIECE = 25_000  # values that are measured at a time
FREQUENCIES = 128  # random frequencies: each gives a cosine and a sine
SEED = 20261128
PAIRS = 1000  # pairs of embeddings whose median distance is the bandwidth


def sample_rows(images: np.ndarray) -> np.ndarray:
    """Return at most 8 evenly spaced rows of each image, as a view: uint8 N×R×S×3 of uint8 N×S×S×3."""
    side = images.shape[1]
    step = max(1, side // SAMPLED_ROWS)
    return images[:, step // 2 : step * SAMPLED_ROWS : step]


def measure(rows: np.ndarray) -> np.ndarray:
    """Return brightness, contrast and sharpness, float32 3×N, for uint8 N×R×S×3.

    They are the mean, the standard deviation and the mean horizontal step of the values 0..255.
    """
    found = np.empty((3, len(rows)), np.float32)
    # Larger temporary arrays go back to the kernel after each call, and the page faults take most of the time.
    step = max(1, PIECE // max(1, rows[0].size)) if len(rows) else 1
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        pixels = piece.reshape(len(piece), -1).astype(np.float32)
        brightness, squares = _means(pixels), np.vecdot(pixels, pixels) / pixels.shape[1]
        left, right = piece[:, :, :-1], piece[:, :, 1:]
        steps = (np.maximum(left, right) - np.minimum(left, right)).reshape(len(piece), -1).astype(np.float32)
        found[:, start : start + step] = (
            brightness,
            np.sqrt(np.maximum(squares - brightness**2, 0)),
            _means(steps),
        )
    return found


def _means(values: np.ndarray) -> np.ndarray:
    """Return float32 N, the mean of each row of float32 N×M; 0 if M is 0.

    A product is faster than NumPy's mean. The sums of bytes are whole numbers, which float32 adds exactly in any order.
    """
    return (values @ np.ones(values.shape[1], np.float32)) / np.float32(max(1, values.shape[1]))


def side_lengths(sizes: np.ndarray) -> np.ndarray:
    """Return float32 N: the side of a square with the area of each image. sizes: N×2, width and height in pixels."""
    return np.sqrt(sizes[:, 0].astype(np.float32) * sizes[:, 1].astype(np.float32))


@dataclass(frozen=True)
class FourierFeatures:
    """Random Fourier features of a Gaussian kernel (Rahimi & Recht, NIPS 2007).

    The mean of the features over a set of embeddings stands for the set: the squared distance of two means is the
    squared maximum mean discrepancy of the sets (Gretton et al., JMLR 2012), for the kernel that the features span.
    dimensions: of an embedding. bandwidth: of the kernel, in units of the embedding.
    """

    dimensions: int
    bandwidth: float

    @classmethod
    def fitted(cls, embeddings: np.ndarray) -> FourierFeatures:
        """Return the features for float N×D embeddings. The bandwidth is the median distance of random pairs."""
        random = np.random.default_rng(SEED)
        one, other = random.integers(0, len(embeddings), (2, PAIRS))
        distances = np.linalg.norm(embeddings[one[one != other]] - embeddings[other[one != other]], axis=1)
        return cls(embeddings.shape[1], float(np.median(distances)) or 1.0)

    @cached_property
    def _directions(self) -> np.ndarray:
        # NumPy promises that RandomState draws the same numbers in every version. A stored reference relies on it.
        drawn = np.random.RandomState(SEED).standard_normal((self.dimensions, FREQUENCIES))
        return (drawn / self.bandwidth).astype(np.float32)

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Return float32 N×256 for float N×D. A row has length 1, or NaN if the embedding is not finite."""
        angles = embeddings.astype(np.float32, copy=False) @ self._directions
        angles[~np.isfinite(angles)] = np.nan  # the cosine of an infinite angle would warn
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.float32(np.sqrt(FREQUENCIES))
