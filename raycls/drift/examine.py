"""Compare a window with the reference: one finding for each feature, some of them alarms.

    for finding in examine(reference, sums):
        print(finding.feature, finding.statistic, finding.p, finding.effect, finding.alarm)

An alarm needs two things. The difference must be real: p below `ALPHA`, divided by the number of features (Bonferroni).
And it must be large enough to care about: an effect of at least `LEAST_EFFECT`. A p alone would alarm at
differences that matter to nobody, because a window has many images.

| feature | statistic and p | effect |
|---|---|---|
| class | χ² of the two rows of counts | population stability index |
| confidence, brightness, contrast, sharpness, size | Kolmogorov–Smirnov, on the bins of the reference | the same |
| embedding | maximum mean discrepancy, squared | the same, as a share of the variance of the features |

Effects have the value removed that chance alone gives on average, so that windows of all sizes compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from raycls.drift.reference import Reference
from raycls.drift.window import WindowSums

ALPHA = 0.01  # for all features of a window together
LEAST_IMAGES = 100  # a smaller window gives no findings
LEAST_EXPECTED = 5  # images of a class in the window, below which rare classes are counted together
# A population stability index below 0.1 counts as no change (Siddiqi, Credit Risk Scorecards, 2006).
LEAST_EFFECT = 0.1
# On CIFAR-10, 0.005 is the effect on embeddings of an unseen class that has a fifth of the images.
LEAST_EMBEDDING_EFFECT = 0.005
FLOOR = 0.05  # the smallest share in the index is this, divided by the number of bins or classes


@dataclass(frozen=True)
class Finding:
    """How one feature of a window differs from the reference. p: the chance of such a difference without drift."""

    feature: str
    statistic: float
    p: float
    effect: float
    alarm: bool


def examine(reference: Reference, sums: WindowSums) -> list[Finding]:
    """Return a finding for each feature, or none for a window of fewer than 100 images."""
    if sums.images < LEAST_IMAGES:
        return []
    usual = np.array(reference.classes)
    found = {"class": (*_chi_square(usual, sums.classes), _stability(usual, sums.classes))}
    for name, bins in reference.features.items():
        usual, seen = np.array(bins.counts), sums.features[name]
        found[name] = (*_kolmogorov_smirnov(usual, seen), _stability(usual, seen))
    if sums.embedded >= LEAST_IMAGES:
        found["embedding"] = _discrepancy(reference, sums)
    return [
        Finding(
            name,
            statistic,
            p,
            effect,
            bool(
                p < ALPHA / len(found)
                and effect >= (LEAST_EMBEDDING_EFFECT if name == "embedding" else LEAST_EFFECT)
            ),
        )
        for name, (statistic, p, effect) in found.items()
    ]


def _chi_square(usual: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """Return χ² and p for the homogeneity of two rows of counts."""
    rare = (usual + seen) * (seen.sum() / (usual.sum() + seen.sum())) < LEAST_EXPECTED
    table = np.array([[*row[~rare], row[rare].sum()] for row in (usual, seen)])
    table = table[:, table.any(0)]
    if table.shape[1] < 2:
        return 0.0, 1.0
    result = stats.chi2_contingency(table, correction=False)
    return float(result.statistic), float(result.pvalue)


def _kolmogorov_smirnov(usual: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """Return the largest distance of the two distributions at an edge, and p. Bins make p too large at most."""
    n, m = int(usual.sum()), int(seen.sum())
    distance = float(np.abs(usual.cumsum() / n - seen.cumsum() / m).max())
    return distance, float(stats.kstwobign.sf(distance * math.sqrt(n * m / (n + m))))


def _stability(usual: np.ndarray, seen: np.ndarray) -> float:
    """Return the population stability index, less what chance gives (Yurdakul & Naranjo, J. Risk Model Valid. 2020)."""
    n, m = usual.sum(), seen.sum()
    # The floor keeps the logarithm finite, and keeps a few images beyond the reference's extremes from alarming.
    one, other = (np.maximum(counts / counts.sum(), FLOOR / len(usual)) for counts in (usual, seen))
    index = float(((other - one) * np.log(other / one)).sum())
    return max(0.0, index - float((np.count_nonzero(usual) - 1) * (1 / n + 1 / m)))


def _discrepancy(reference: Reference, sums: WindowSums) -> tuple[float, float, float]:
    """Return the squared maximum mean discrepancy, p and effect.

    Without drift, the difference of two means is normal, with the covariance of the features times (1/n + 1/m). So its
    squared length is a sum of weighted χ². The p is that of the χ² with the same mean, variance and skewness (Buckley &
    Eagleson, Austral. J. Statist. 1988).
    """
    scale = 1 / reference.images + 1 / sums.embedded
    squared = float(np.square(sums.fourier / sums.embedded - np.array(reference.mean)).sum())
    trace, square, cube = reference.powers
    if square <= 0:  # all embeddings of the reference are equal
        return squared, float(squared <= 1e-9), squared
    mean, variance, third = trace, 2 * square, 8 * cube
    freedom = 8 * variance**3 / third**2
    standardised = (squared / scale - mean) / math.sqrt(variance)
    p = float(stats.chi2.sf(freedom + math.sqrt(2 * freedom) * standardised, freedom))
    return squared, p, max(0.0, squared - scale * trace) / trace
