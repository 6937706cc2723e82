"""Computes the figures of the model report from a model's scores, over all classes and for each class.

    measured = figures(scores)
    measured.macro["f1"], measured.calibration_error, measured.classes[0].recall

`raycls evaluate` uses the same scores. This module knows numbers, not pictures or pages.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from raycls import metrics
from raycls.training.evaluation import Scores


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """The figures of one class.

    images: the number of its examples.
    mistaken_for: the class that the model most often predicts for it by mistake, or None. mistaken: how often.
    """

    name: str
    images: int
    precision: float
    recall: float
    f1: float
    mistaken_for: str | None
    mistaken: int


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The answers with a confidence in (low, high]: their number, mean confidence and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of a model on one split. Shares are in 0..1.

    interval: 95% confidence interval of the accuracy (Wilson's score interval).
    macro, weighted: precision, recall and f1, as the mean over classes and as the mean weighted by images per class.
    log_loss: mean cross entropy in nats.
    calibration_error, calibration_interval: as in raycls.metrics, over metrics.BINS bins.
    calibration_error_before, reliability_before: at temperature 1. temperature: the model's.
    confidence: mean confidence of the answers.
    confusion: int64 C×C, true classes in rows.
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    macro: dict[str, float]
    weighted: dict[str, float]
    log_loss: float
    calibration_error: float
    calibration_interval: tuple[float, float]
    calibration_error_before: float
    temperature: float
    confidence: float
    classes: tuple[ClassFigures, ...]
    reliability: tuple[Bin, ...]
    reliability_before: tuple[Bin, ...]
    confusion: np.ndarray

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "confusion": self.confusion.tolist()}


def figures(scores: Scores) -> Figures:
    """Return all figures of a model's scores."""
    from scipy.stats import binomtest

    evaluation = scores.evaluation()
    counts, count = evaluation.confusion, len(evaluation.classes)
    each = metrics.precision_recall_f1(counts)
    confidence, _ = scores.answers()
    right = int(evaluation.confusion.trace())
    interval = binomtest(right, len(scores.labels)).proportion_ci(0.95, method="wilson")
    return Figures(
        images=len(scores.labels),
        accuracy=evaluation.accuracy,
        interval=(float(interval.low), float(interval.high)),
        macro=metrics.averages(each, counts, weighted=False),
        weighted=metrics.averages(each, counts, weighted=True),
        log_loss=evaluation.loss,
        calibration_error=evaluation.calibration_error,
        calibration_interval=evaluation.calibration_interval,
        calibration_error_before=evaluation.calibration_error_before,
        temperature=scores.temperature,
        confidence=float(confidence.mean()),
        classes=tuple(
            _class_figures(
                i, evaluation.classes, evaluation.confusion, {k: float(v[i]) for k, v in each.items()}
            )
            for i in range(count)
        ),
        reliability=_reliability(scores),
        reliability_before=_reliability(scores.at_temperature(1.0)),
        confusion=evaluation.confusion,
    )


def _class_figures(
    index: int, classes: tuple[str, ...], confusion: np.ndarray, values: dict[str, float]
) -> ClassFigures:
    wrong = confusion[index].copy()
    wrong[index] = 0
    most = int(wrong.argmax())
    return ClassFigures(
        name=classes[index],
        images=int(confusion[index].sum()),
        mistaken_for=classes[most] if wrong[most] else None,
        mistaken=int(wrong[most]),
        **values,
    )


def _reliability(scores: Scores) -> tuple[Bin, ...]:
    confidence, correct = scores.answers()
    return tuple(
        Bin(
            low=low,
            high=high,
            images=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(correct[inside].mean()),
        )
        for low, high, inside in metrics.reliability(confidence)
    )


def confused_pairs(measured: Figures, limit: int) -> list[tuple[str, str, int, float]]:
    """Return (true class, predicted class, images, share of the true class), the most frequent confusion first."""
    wrong = measured.confusion - np.diag(np.diag(measured.confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(place), len(wrong)) for place in order]
    return [
        (
            measured.classes[true].name,
            measured.classes[predicted].name,
            int(wrong[true, predicted]),
            float(wrong[true, predicted] / measured.classes[true].images),
        )
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def confidently_wrong(scores: Scores, limit: int) -> np.ndarray:
    """Return int64 indices of at most `limit` wrongly answered examples, the highest confidence first."""
    confidence, predicted = scores.probabilities.max(1)
    wrong = torch.nonzero(predicted != scores.labels).flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:limit].numpy()


def rightly_seen(scores: Scores, limit: int) -> np.ndarray:
    """Return int64 indices of at most `limit` correctly answered examples: per class, one of median confidence."""
    confidence, predicted = scores.probabilities.max(1)
    typical = []
    for label in range(len(scores.examples.classes)):
        right = torch.nonzero((predicted == scores.labels) & (scores.labels == label)).flatten()
        if len(right):
            typical.append(int(right[confidence[right].argsort()[len(right) // 2]]))
    step = max(1, len(typical) // limit)
    return np.array(typical[::step][:limit], dtype=np.int64)
