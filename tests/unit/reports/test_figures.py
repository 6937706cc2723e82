"""The figures against scikit-learn's, and against their own definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, precision_recall_fscore_support

from raycls.engines.examples import Examples
from raycls.reports.figures import (
    Figures,
    confidently_wrong,
    confused_pairs,
    figures,
    rightly_seen,
)
from raycls.training.evaluation import Scores

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def scores() -> Scores:
    """Of 600 images, unbalanced, with about a third wrong."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 600, p=(0.6, 0.3, 0.1))
    logits = torch.from_numpy(
        rng.normal(0, 1, (600, 3)).astype(np.float32) + 1.5 * np.eye(3, dtype=np.float32)[labels]
    )
    examples = Examples(
        dataset="insects", split="test", classes=CLASSES, labels=labels, columns=np.arange(3), model_only=(),
        dataset_only=(), images=np.zeros((600, 2, 2, 3), np.uint8), rows=np.arange(600), size=2, remarks=(),
    )  # fmt: skip
    return Scores(examples=examples, logits=logits, labels=torch.from_numpy(labels), temperature=0.5)


@pytest.fixture(scope="module")
def measured(scores: Scores) -> Figures:
    return figures(scores)


def test_precision_recall_and_f1_are_scikit_learns(scores: Scores, measured: Figures) -> None:
    labels, predicted = scores.labels.numpy(), scores.predicted.numpy()
    for average, found in (("macro", measured.macro), ("weighted", measured.weighted)):
        expected = precision_recall_fscore_support(labels, predicted, average=average)[:3]
        assert [found["precision"], found["recall"], found["f1"]] == pytest.approx(expected, abs=1e-6)
    for i, (precision, recall, f1, images) in enumerate(
        zip(*precision_recall_fscore_support(labels, predicted), strict=True)
    ):
        each = measured.classes[i]
        assert (each.precision, each.recall, each.f1) == pytest.approx((precision, recall, f1), abs=1e-6)
        assert (each.name, each.images) == (CLASSES[i], images)
    assert measured.accuracy == (labels == predicted).mean()
    assert measured.interval[0] < measured.accuracy < measured.interval[1]
    assert measured.log_loss == pytest.approx(
        log_loss(labels, scores.logits.double().softmax(1).numpy()), abs=1e-5
    )


def test_the_calibration_error_is_what_the_reliability_bins_show_less_chance(measured: Figures) -> None:
    assert sum(each.images for each in measured.reliability) == measured.images
    gaps = [each.images * abs(each.accuracy - each.confidence) for each in measured.reliability]
    assert 0.8 * sum(gaps) / measured.images < measured.calibration_error < sum(gaps) / measured.images
    low, high = measured.calibration_interval
    assert low < measured.calibration_error < high
    assert all(each.low <= each.confidence <= each.high + 1e-6 for each in measured.reliability)


def test_the_figures_before_the_temperature_are_those_of_the_networks_own_logits(
    scores: Scores, measured: Figures
) -> None:
    raw = replace(scores, logits=scores.logits * 0.5, temperature=1.0)
    before = figures(raw)
    assert before.reliability == before.reliability_before == measured.reliability_before
    assert before.calibration_error == measured.calibration_error_before != measured.calibration_error


def test_confusions_come_the_most_frequent_first(scores: Scores, measured: Figures) -> None:
    pairs = confused_pairs(measured, 10)
    wrong = scores.labels != scores.predicted
    assert sum(count for _, _, count, _ in pairs) == wrong.sum()
    assert [count for *_, count, _ in pairs] == sorted((count for *_, count, _ in pairs), reverse=True)
    true, predicted, count, share = pairs[0]
    here = (scores.labels == CLASSES.index(true)) & (scores.predicted == CLASSES.index(predicted))
    assert count == here.sum()
    assert share == pytest.approx(count / (scores.labels == CLASSES.index(true)).sum().item())
    ant = measured.classes[0]
    assert (ant.name, ant.mistaken_for, ant.mistaken) in {(t, p, n) for t, p, n, _ in pairs}


def test_the_confidently_wrong_are_wrong_and_the_others_right(scores: Scores) -> None:
    confidence, right = scores.probabilities.amax(1), scores.predicted == scores.labels
    wrong = confidently_wrong(scores, 7)
    assert len(wrong) == 7
    assert not right[wrong].any()
    assert confidence[wrong].min() >= confidence[~right].sort(descending=True).values[6]
    shown = rightly_seen(scores, 3)
    assert right[shown].all()
    assert scores.labels[shown].tolist() == [0, 1, 2]
