"""Random pictures with what a model says of them, for the tests of drift."""

from __future__ import annotations

import numpy as np

CLASSES, DIMENSIONS, SIDE = 5, 16, 16
Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def batch(count: int, seed: int, *, shift: float = 0.0, side: int = SIDE) -> Batch:
    """Return probabilities, embeddings, images and sizes of random pictures. shift moves the embeddings."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, CLASSES)) * 2
    exponentials = np.exp(logits)
    probabilities = (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)
    embeddings = (random.normal(size=(count, DIMENSIONS)) + shift).astype(np.float32)
    levels = random.uniform(40, 200, (count, 1, 1, 1))
    images = np.clip(levels + random.normal(0, 20, (count, side, side, 3)), 0, 255).astype(np.uint8)
    sizes = random.choice([[640, 480], [480, 640], [800, 800]], count)
    return probabilities, embeddings, images, sizes
