"""Every metric of a classifier, computed here alone: for training, evaluation and reports.

    counts = confusion(labels, predicted, classes=10)
    accuracy(counts), precision_recall_f1(counts)["recall"]

Functions of NumPy arrays; they know neither networks nor files. Labels are int64 N in 0..C-1. A confusion matrix is
int64 C×C, with true classes in rows and predicted classes in columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# Equal bins of confidence, as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
BINS = 15
RESAMPLES = 200  # of the bootstrap


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix of int64 N true and predicted classes."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def accuracy(counts: np.ndarray) -> float:
    """Return the share (0..1) of images that were recognised."""
    return float(counts.trace() / counts.sum())


def class_accuracy(correct: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return float64 C: the share of each class's images that were recognised, NaN for a class without images."""
    correct, images = correct.astype(float), images.astype(float)
    return np.divide(correct, images, out=np.full(len(images), np.nan), where=images > 0)


def summary(
    split: str, correct: np.ndarray, predicted: np.ndarray, images: np.ndarray, loss: float
) -> dict[str, float]:
    """Return accuracy, loss, macro accuracy and macro F1 under their names in MLflow, like val_accuracy.

    correct, predicted, images: C, by class. loss: mean cross entropy. The macro figures are means over the classes with
    images. Macro accuracy is the same as macro recall.
    """
    return {
        f"{split}_accuracy": float(correct.sum() / images.sum()),
        f"{split}_loss": loss,
        f"{split}_macro_accuracy": float(macro_recall(correct, images)),
        f"{split}_macro_f1": float(macro_f1(correct, predicted, images)),
    }


def rank(name: str, epoch: Mapping[str, float]) -> tuple[bool, float]:
    """Return by what the best of several epochs is found, from its metrics: higher is better.

    name: of the metric that decides. Without it, as where no image validates, a later epoch is better. An epoch that
    saw smaller images comes after all that saw whole ones: its figures are those of smaller images too, which nobody
    sends.
    """
    value = oriented(name, epoch[name]) if name in epoch else epoch["epoch"]
    return epoch.get("image_share", 1.0) == 1, value


def macro_recall(right: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the mean recall over the classes with images, ..., for right answers and images by class: both ...×C."""
    recall, has_images = _ratio(right, images), images > 0
    return recall.sum(-1) / has_images.sum(-1)


def macro_f1(right: np.ndarray, predicted: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the mean F1 over the classes with images, ..., for right answers, answers and images by class: ...×C."""
    has_images = images > 0
    return (_ratio(2 * right, predicted + images) * has_images).sum(-1) / has_images.sum(-1)


def oriented(name: str, value: float) -> float:
    """Return the value of a logged metric so that a higher one is better: a loss changes its sign."""
    return -value if name.endswith("_loss") else value


def precision_recall_f1(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return float64 C for each of "precision", "recall" and "f1"; 0 where a class gives no figure."""
    right, predicted, images = counts.diagonal(), counts.sum(0), counts.sum(1)
    return {
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, images),
        "f1": _ratio(2 * right, predicted + images),
    }


def averages(by_class: dict[str, np.ndarray], counts: np.ndarray, *, weighted: bool) -> dict[str, float]:
    """Return the mean of each figure over the classes, equal or weighted by their images.

    The equal mean leaves out classes that have no images and were never predicted.
    """
    images, predicted = counts.sum(1), counts.sum(0)
    weights = images if weighted else (images + predicted > 0).astype(int)
    return {name: float(np.average(values, weights=weights)) for name, values in by_class.items()}


def reliability(confidence: np.ndarray, bins: int = BINS) -> list[tuple[float, float, np.ndarray]]:
    """Return (low, high, bool N) for each of `bins` equal ranges of confidence that holds an answer."""
    edges, which = np.linspace(0, 1, bins + 1), _bin_of(confidence, bins)
    found = ((float(edges[i]), float(edges[i + 1]), which == i) for i in range(bins))
    return [each for each in found if each[2].any()]


def _bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error (0..1) over equal bins, less what chance adds to it.

    confidence: float N, of the predicted class. correct: bool N. Guo et al. (arXiv:1706.04599) take the mean of the
    bins' gaps between confidence and accuracy. With 300 images, that is 3% for a model without any error: a gap has a
    size, and never cancels out. What chance adds is estimated as Kumar et al. do (Verified Uncertainty Calibration,
    arXiv:1909.10155): each gap is as if normally distributed around the one that was found.
    """
    return float(_calibration_error(_sums(confidence, correct, bins)))


def calibration_interval(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> tuple[float, float]:
    """Return a 95% interval of `calibration_error`, by the bootstrap.

    It is as wide as if the estimate were normally distributed. Resampling adds chance once more, which the lower end is
    corrected for. The upper end is not, because the estimate may be 0 where the error is not.
    benchmarks/results/calibration.md shows how often the interval holds the error.
    """
    found, count = calibration_error(confidence, correct, bins), len(confidence)
    random = np.random.default_rng(0)
    chosen = (random.integers(count, size=count) for _ in range(RESAMPLES))
    resampled = _calibration_error(
        np.stack([_sums(confidence[each], correct[each], bins) for each in chosen])
    )
    half = 1.96 * float(resampled.std())
    return max(0.0, 2 * found - float(resampled.mean()) - half), min(1.0, found + half)


def _sums(confidence: np.ndarray, correct: np.ndarray, bins: int) -> np.ndarray:
    """Return the number of answers in each bin, and the sums of their confidences and of the right ones: 3×bins."""
    which = _bin_of(confidence, bins)
    weights = (None, confidence, correct)
    return np.stack([np.bincount(which, weights=each, minlength=bins).astype(float) for each in weights])


def _calibration_error(sums: np.ndarray) -> np.ndarray:
    """Return `calibration_error`, ..., of ...×3×bins sums."""
    from scipy.special import ndtr

    images, confidence, right = np.moveaxis(sums, -2, 0)
    confidence, accuracy = _ratio(confidence, images), _ratio(right, images)
    gap = np.abs(accuracy - confidence)
    # Where all answers of a bin are right, its accuracy is not certain: then the confidence tells the spread.
    variance = np.maximum(accuracy * (1 - accuracy), confidence * (1 - confidence))
    spread = np.sqrt(_ratio(variance, images))
    z = np.divide(gap, spread, out=np.full_like(gap, np.inf), where=spread > 0)
    by_chance = spread * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) - 2 * gap * ndtr(-z)
    return np.maximum(0, (images * (gap - by_chance)).sum(-1) / images.sum(-1))


def told_calibration(found: Mapping[str, float], split: str) -> str:
    """Return the calibration error of a split among metrics as people read it; empty text where there is none.

    found: by their names in MLflow. Versions of an earlier raycls have no interval, and may have no error at all.
    """
    name = f"{split}_calibration_error"
    if f"{name}_low" not in found:
        return f"{found[name]:.1%}" if name in found else ""
    error, low, high, before = (found[f"{name}{which}"] for which in ("", "_low", "_high", "_before"))
    return f"{error:.1%} ({low:.1%} to {high:.1%}), before the temperature {before:.1%}"


def bucket_quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return a quantile of observations that were counted in buckets, as PromQL's histogram_quantile does.

    bounds: the buckets' upper bounds, ascending. counts: the observations of each, and at the end of those above the
    last bound. Linear within a bucket; the last bound if it lies above all of them; None without observations.
    """
    wanted, low = share * sum(counts), 0.0
    if not wanted:
        return None
    for bound, count in zip(bounds, counts, strict=False):
        if count and count >= wanted:
            return low + (bound - low) * wanted / count
        wanted, low = wanted - count, bound
    return low


def log_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return float64 N: the cross entropy of each image in nats. probabilities: N×C.

    A probability counts as at least 1e-7, so that one wrong and certain answer does not decide the mean alone.
    """
    given = probabilities[np.arange(len(labels)), labels].astype(float)
    return -np.log(np.clip(given, 1e-7, 1.0))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)
