"""The split of a dataset into training, validation and test images, stratified by class and seeded.

    indices = stratified_split(labels, SHARES)
    indices["val"]        # int64: positions in `labels`, shuffled

The same labels give the same split on every machine. This module knows labels only.
"""

from __future__ import annotations

import numpy as np

SEED = 0
SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def stratified_split(labels: np.ndarray, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Return the positions of each split's images (int64), divided by `shares` within each class.

    labels: int, N. shares sum to 1; the first split takes the rest after rounding. Every split gets at least one image
    of a class that has at least as many images as there are splits. The positions are shuffled, so the first part of a
    split holds the classes in proportion.
    """
    random = np.random.default_rng(SEED)
    first, *others = shares
    parts: dict[str, list[np.ndarray]] = {split: [] for split in shares}
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        for split in others:
            count = max(1, round(shares[split] * np.count_nonzero(labels == label)))
            parts[split].append(members[:count])
            members = members[count:]
        parts[first].append(members)
    return {split: random.permutation(np.concatenate(parts[split])) for split in shares}
