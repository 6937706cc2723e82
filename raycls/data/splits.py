"""The split of a dataset: by class and by group, and the same again whatever is added later.

    split = assign(labels, groups, former, SHARES)    # int64 N, an index into SHARES for each image

An image keeps the split that an earlier version gave it, and a group is never divided. The rest fills the shares within
each class. Nothing is random: the order of the groups' names decides, and those begin with a digest of the images.

    fold = folds(labels, groups, 5)                   # int64 N, 0 to 4

This module knows labels and groups only.
"""

from __future__ import annotations

import numpy as np

SHARES = {"train": 0.7, "val": 0.1, "gate": 0.1, "test": 0.1}
FILLED = 0.1  # the part of train/ that fills a split which a folder lacks
MOST_FILLED = 10_000  # images
NEW = -1  # of an image without a former split


def assign(
    labels: np.ndarray,
    groups: np.ndarray,
    former: np.ndarray,
    shares: dict[str, float],
    most: int | None = None,
) -> np.ndarray:
    """Return the split of each image: int64 N, an index into `shares`.

    labels: int64 N. groups: str N; images with the same name stay together. former: int64 N, the index of the split
    that the image has already, or NEW. shares sum to 1. most: the largest number of images of any split but the first.

    A class with fewer groups than splits fills train first, then val, test and gate.
    """
    names, member_of = np.unique(groups, return_inverse=True)
    count = len(names)
    split = np.full(count, NEW)
    fixed = former != NEW
    split[member_of[fixed]] = former[fixed]
    sizes = np.bincount(member_of, minlength=count)
    label_of = _commonest(labels, member_of, count)
    for label in np.unique(labels):
        mine = np.flatnonzero(label_of == label)
        targets = _targets(labels == label, sizes[mine], shares, most, len(labels))
        have = np.zeros(len(shares))
        done = mine[split[mine] != NEW]
        np.add.at(have, split[done], sizes[done])
        waiting = mine[split[mine] == NEW]
        # Large groups first, while every split still has room. Names break ties.
        for group in waiting[np.lexsort((waiting, -sizes[waiting]))]:
            chosen = int(np.argmax(targets - have))
            split[group] = chosen
            have[chosen] += sizes[group]
    found = split[member_of]
    found[fixed] = former[fixed]  # a group of before may straddle
    return found


def folds(labels: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the fold of each image: int64 N, from 0 to count-1, with about as many images of each class in each.

    labels: int64 N. groups: str N; images with the same name stay together, whatever their labels. Large groups come
    first, in a shuffled order that is always the same. Each goes where it makes the sum of squares of the shares of all
    classes the smallest. scikit-learn's StratifiedGroupKFold has the same aim, and is much slower for single images.
    """
    names, member_of = np.unique(groups, return_inverse=True)
    classes = int(labels.max()) + 1
    sizes = np.bincount(member_of, minlength=len(names))
    order = np.argsort(member_of, kind="stable")
    labels_of = np.split(labels[order], np.cumsum(sizes)[:-1])
    totals = np.maximum(np.bincount(labels, minlength=classes), 1).astype(float)
    have, fold = np.zeros((count, classes)), np.empty(len(names), dtype=np.int64)
    shuffled = np.random.default_rng(0).permutation(len(names))
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        mine = labels_of[group]
        # The sum of squares grows by this, and by what is the same for each fold. The smallest fold wins a tie.
        growth = (have[:, mine] / totals[mine] ** 2).sum(1)
        chosen = np.lexsort((have.sum(1), growth.round(12)))[0]
        np.add.at(have[chosen], mine, 1)
        fold[group] = chosen
    return fold[member_of]


def too_few(
    labels: np.ndarray, split: np.ndarray, classes: tuple[str, ...], splits: tuple[str, ...]
) -> dict[str, list[str]]:
    """Return {split: the classes that have no image in it}, without the splits that have all classes."""
    missing = {}
    for index, name in enumerate(splits):
        counts = np.bincount(labels[split == index], minlength=len(classes))
        if (counts == 0).any():
            missing[name] = [classes[label] for label in np.flatnonzero(counts == 0)]
    return missing


def _commonest(labels: np.ndarray, member_of: np.ndarray, count: int) -> np.ndarray:
    """Return the commonest label of each group: int64, count."""
    pairs, times = np.unique(np.stack([member_of, labels]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -times, pairs[0]))
    groups, first = np.unique(pairs[0][order], return_index=True)
    found = np.zeros(count, dtype=np.int64)
    found[groups] = pairs[1][order][first]
    return found


def _targets(
    of_class: np.ndarray, sizes: np.ndarray, shares: dict[str, float], most: int | None, total: int
) -> np.ndarray:
    """Return how many images of one class each split shall have: float64, in the order of `shares`."""
    images = int(sizes.sum())
    targets = np.array([share * images for share in shares.values()])
    if most is not None:
        targets[1:] = np.minimum(targets[1:], most * np.count_nonzero(of_class) / total)
    # Every split with a share gets one group, as far as there are groups: first train, then val, test and gate.
    wanted = [name for name in ("val", "test", "gate") if name in shares][: max(0, len(sizes) - 1)]
    for place, name in enumerate(shares):
        if place:
            targets[place] = max(1, round(targets[place])) if name in wanted and shares[name] else 0
    targets[0] = images - targets[1:].sum()
    return targets
