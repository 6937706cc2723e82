"""Metrics against scikit-learn's, and for classes that have no images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from raycls import metrics


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.choice(4, 500, p=(0.5, 0.3, 0.15, 0.05))
    predicted = np.where(random.random(500) < 0.7, labels, random.integers(0, 4, 500))
    return labels, predicted


def test_figures_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    counts = metrics.confusion(*answers, 4)
    assert np.array_equal(counts, confusion_matrix(*answers))
    assert metrics.accuracy(counts) == (answers[0] == answers[1]).mean()
    found = metrics.precision_recall_f1(counts)
    for average, weighted in (("macro", False), ("weighted", True)):
        expected = precision_recall_fscore_support(*answers, average=average)[:3]
        assert list(metrics.averages(found, counts, weighted=weighted).values()) == pytest.approx(expected)
    summary = metrics.summary("val", counts.diagonal(), counts.sum(0), counts.sum(1), 0.5)
    assert summary["val_macro_accuracy"] == pytest.approx(balanced_accuracy_score(*answers))
    assert summary["val_macro_f1"] == pytest.approx(f1_score(*answers, average="macro"))
    assert (summary["val_loss"], summary["val_accuracy"]) == (0.5, metrics.accuracy(counts))


def test_a_class_without_images_has_no_accuracy_and_counts_in_no_mean() -> None:
    counts = metrics.confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    assert np.isnan(metrics.class_accuracy(counts.diagonal(), counts.sum(1))).tolist() == [False, False, True]
    summary = metrics.summary("test", counts.diagonal(), counts.sum(0), counts.sum(1), 0.0)
    assert (summary["test_macro_accuracy"], summary["test_macro_f1"]) == (0.75, pytest.approx(2 / 3))
    recall = metrics.precision_recall_f1(counts)["recall"]
    assert recall.tolist() == [0.5, 1.0, 0.0]
    assert metrics.averages({"recall": recall}, counts, weighted=False) == {"recall": 0.75}


def _answers(images: int, divisor: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and answers that are right as often as the confidence at another temperature says."""
    random = np.random.default_rng(seed)
    odds = np.abs(random.normal(3, 1.5, images))
    return 1 / (1 + np.exp(-odds)), random.random(images) < 1 / (1 + np.exp(-odds * divisor))


def test_the_calibration_error_of_many_answers_is_the_mean_gap() -> None:
    confidence = np.repeat([0.9, 0.3], [30_000, 10_000])
    correct = np.arange(40_000) % 10 < np.repeat([7, 5], [30_000, 10_000])
    expected = 3 / 4 * 0.2 + 1 / 4 * 0.2
    assert metrics.calibration_error(confidence, correct, bins=10) == pytest.approx(expected, abs=1e-6)
    assert metrics.calibration_error(np.array([1.0, 0.0]), np.array([True, False]), bins=15) == 0
    assert metrics.calibration_error(np.array([1.0, 1.0]), np.array([True, False]), bins=15) > 0.4


def test_chance_is_no_calibration_error() -> None:
    drawn = [_answers(300, 1.0, seed) for seed in range(100)]
    plain = [
        sum(abs(right[part].mean() - confidence[part].mean()) * part.sum() for *_, part in bins) / 300
        for confidence, right in drawn
        for bins in [metrics.reliability(confidence)]
    ]
    corrected = [metrics.calibration_error(*each) for each in drawn]
    assert np.mean(plain) > 0.025
    assert np.mean(corrected) < 0.65 * np.mean(plain)


@pytest.mark.parametrize(("divisor", "true"), [(1.0, 0.0), (0.5, None)])
def test_the_interval_holds_the_calibration_error(divisor: float, true: float | None) -> None:
    if true is None:
        true = metrics.calibration_error(*_answers(400_000, divisor, 1))
        assert true > 0.05
    intervals = [metrics.calibration_interval(*_answers(300, divisor, seed)) for seed in range(40)]
    assert sum(low <= true <= high for low, high in intervals) >= 36
    assert all(high - low < 0.15 for low, high in intervals)


def test_the_calibration_error_is_told_with_its_interval() -> None:
    name = "test_calibration_error"
    found = {name: 0.012, f"{name}_low": 0.004, f"{name}_high": 0.02, f"{name}_before": 0.2}
    assert metrics.told_calibration(found, "test") == "1.2% (0.4% to 2.0%), before the temperature 20.0%"
    assert metrics.told_calibration({name: 0.012}, "test") == "1.2%"
    assert metrics.told_calibration({}, "test") == ""


def test_a_quantile_of_buckets_is_linear_within_its_bucket() -> None:
    assert metrics.bucket_quantile((1.0, 2.0, 4.0), (0, 90, 10, 0), 0.95) == pytest.approx(3.0)
    assert metrics.bucket_quantile((1.0, 2.0), (100, 0, 0), 0.95) == pytest.approx(0.95)
    assert metrics.bucket_quantile((1.0, 2.0), (0, 0, 10), 0.5) == 2.0, "all lie above the last bound"
    assert metrics.bucket_quantile((1.0, 2.0), (0, 0, 0), 0.5) is None


def test_of_epochs_those_that_saw_whole_images_come_first() -> None:
    small, whole, lower = (
        {"val_accuracy": value, "val_loss": loss, "image_share": share}
        for value, loss, share in ((0.9, 0.1, 0.6875), (0.8, 0.3, 1.0), (0.7, 0.2, 1.0))
    )
    former = {"val_accuracy": 0.75, "val_loss": 0.25}  # of an earlier raycls
    assert max((small, whole, lower, former), key=lambda epoch: metrics.rank("val_accuracy", epoch)) is whole
    assert max((small, whole, lower, former), key=lambda epoch: metrics.rank("val_loss", epoch)) is lower
