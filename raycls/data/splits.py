"""Which image is for training, which for validation and which for the final test: stratified and seeded.

    indices = stratified_split(labels, SHARES)
    indices["val"]        # int64: positions in `labels`, in a shuffled order

Knows labels only. The same labels give the same split on every machine.
"""

from __future__ import annotations

import numpy as np

SEED = 0
SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def stratified_split(labels: np.ndarray, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Deal the images of each class out by `shares`, which add up to 1; the first takes what rounding leaves.

    labels: int, N. Every split gets at least one image of each class that has as many images as there are
    splits. Returns int64 positions, shuffled, so that any first part of a split holds all classes in
    proportion.
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
