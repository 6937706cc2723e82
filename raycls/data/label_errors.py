"""Probable label errors, by confident learning.

    errors = label_errors(labels, probabilities)     # positions, the most certain one first

Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, 2021 (arXiv:1911.00068). The
probabilities must come from a model that has not learned from the label in question. cleanlab is the library of the
authors; its licence, AGPL, is why these lines stand here. This module knows numbers only.
"""

from __future__ import annotations

import numpy as np


def label_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the positions of the images whose label is probably wrong: int64, the most certain one first.

    labels: int64 N. probabilities: float N×C. A class is likely for an image if its probability reaches the mean that
    the class has over the images labelled so. The images whose likeliest such class is not their label give the number
    of errors. Those images are not the best choice, though: the errors are the images whose own label has the lowest
    probability, among those for which another class has a higher one. cleanlab calls this `low_self_confidence`, and
    finds the same images. benchmarks/results/data.md has figures.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    thresholds = np.full(classes, np.inf)
    sums = np.bincount(labels, weights=own, minlength=classes)
    thresholds[counts > 0] = sums[counts > 0] / counts[counts > 0]
    likely = np.where(probabilities >= thresholds, probabilities, -1)
    count = np.count_nonzero((likely.max(1) >= 0) & (likely.argmax(1) != labels))
    doubtful = np.flatnonzero(probabilities.max(1) > own)
    return doubtful[np.argsort(own[doubtful], kind="stable")][:count]
