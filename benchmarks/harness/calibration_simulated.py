"""Answers whose true calibration error is known: how far estimators are from it, and how often the interval holds it.

for document in simulated(): ...

Each answer has a confidence, and is right with a probability that is the confidence at another temperature: at 1, the
model is calibrated. The logarithms of the odds are normally distributed; two centres make an accurate and a less
accurate model. The true error is the mean distance between confidence and probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from harness import results_page
from harness.results_page import Document, Row
from raycls import metrics, progress

CENTRES, SPREAD = (3.5, 1.5), 1.8
TEMPERATURES = (1.0, 0.8, 0.5)
IMAGES, DRAWS = (180, 300, 1000, 10_000), (100, 100, 100, 20)
MANY = 400_000  # answers that the true error is computed from
BINS = 15

Estimator = Callable[[np.ndarray, np.ndarray], float]


def _drawn(random: np.random.Generator, count: int, centre: float, divisor: float) -> np.ndarray:
    """Return confidence, probability and whether it is right: float64 3×N."""
    odds = np.abs(random.normal(centre, SPREAD, count))
    confidence, probability = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-odds * divisor))
    return np.stack([confidence, probability, random.random(count) < probability])


def _gap(bins: list[tuple[np.ndarray, np.ndarray]]) -> float:
    count = sum(len(confidence) for confidence, _ in bins)
    return sum(abs(confidence.mean() - right.mean()) * len(right) for confidence, right in bins) / count


def equal_width(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the error of Guo et al. (arXiv:1706.04599): bins of equal width."""
    return _gap([(confidence[inside], right[inside]) for *_, inside in metrics.reliability(confidence, BINS)])


def equal_mass(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the same over bins with the same number of answers."""
    order = np.argsort(confidence)
    parts = np.array_split(order, BINS)
    return _gap([(confidence[part], right[part]) for part in parts])


def sweep(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the error over as many bins of equal mass as have rising accuracies (Roelofs et al., arXiv:2012.08668)."""
    order = np.argsort(confidence)
    last = [order]
    for count in range(2, len(order) + 1):
        parts = np.array_split(order, count)
        if np.any(np.diff([right[part].mean() for part in parts]) < 0):
            break
        last = parts
    return _gap([(confidence[part], right[part]) for part in last])


ESTIMATORS: dict[str, Estimator] = {
    "equal width": equal_width,
    "equal mass": equal_mass,
    "sweep": sweep,
    "raycls": lambda confidence, right: metrics.calibration_error(confidence, right, BINS),
}


def simulated() -> Iterator[Document]:
    """Yield the document after each model and number of images."""
    random, rows = np.random.default_rng(0), list[Row]()
    for centre in CENTRES:
        for divisor in TEMPERATURES:
            confidence, probability, _ = _drawn(random, MANY, centre, divisor)
            true = float(np.abs(confidence - probability).mean())
            for images, draws in zip(IMAGES, DRAWS, strict=True):
                with progress.bar(f"drawing {draws} times {images} answers"):
                    found = [_once(random, images, centre, divisor, true) for _ in range(draws)]
                means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
                errors = {
                    f"{name} rmse": float(np.sqrt(np.mean([(each[name] - true) ** 2 for each in found])))
                    for name in ESTIMATORS
                }
                rows.append(
                    {"accuracy": float(probability.mean()), "temperature": divisor, "true": true}
                    | {"images": images, "draws": draws, **means, **errors}
                )
                yield results_page.document("simulated", {"bins": BINS}, rows)


def _once(
    random: np.random.Generator, images: int, centre: float, divisor: float, true: float
) -> dict[str, float]:
    """Return each estimate, and whether the interval holds the true error."""
    confidence, _, right = _drawn(random, images, centre, divisor)
    found = {name: estimate(confidence, right) for name, estimate in ESTIMATORS.items()}
    low, high = metrics.calibration_interval(confidence, right, BINS)
    return found | {"holds": float(low <= true <= high), "width": high - low}
