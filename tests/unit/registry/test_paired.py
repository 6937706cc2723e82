"""The statistics against scipy's, against brute force, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from raycls.registry.paired import FEWEST, RESAMPLES, gain, needed, proportion_interval
from raycls.registry.policy import Metric

CLASSES = 4


def _answers(
    seed: int, count: int, accuracies: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the probabilities of two models whose errors are mostly on the same pictures."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=count)
    hard = random.random(count)
    both = []
    for accuracy in accuracies:
        right = 0.8 * hard + 0.2 * random.random(count) < np.quantile(
            0.8 * hard + 0.2 * random.random(count), accuracy
        )
        predicted = np.where(right, labels, (labels + random.integers(1, CLASSES, size=count)) % CLASSES)
        probabilities = np.full((count, CLASSES), 0.1) + random.random((count, CLASSES)) * 0.05
        probabilities[np.arange(count), predicted] += 0.6
        both.append(probabilities / probabilities.sum(1, keepdims=True))
    return labels, both[0], both[1]


def test_accuracy_has_mcnemars_exact_p_value_and_an_interval_around_the_estimate() -> None:
    labels, old, new = _answers(0, 1000, (0.85, 0.90))
    was, now = old.argmax(1) == labels, new.argmax(1) == labels
    better, worse = int((now & ~was).sum()), int((was & ~now).sum())
    found = gain("accuracy", labels, old, new, 0.95)
    assert found.estimate == pytest.approx(now.mean() - was.mean())
    assert found.p_value == pytest.approx(binomtest(better, better + worse, 0.5).pvalue)
    assert found.low < found.estimate < found.high
    assert found.telling == better + worse


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "macro_recall", "log_loss"])
def test_a_gain_turns_its_sign_when_the_models_change_places(metric: Metric) -> None:
    labels, old, new = _answers(1, 600, (0.80, 0.90))
    forth, back = gain(metric, labels, old, new, 0.95), gain(metric, labels, new, old, 0.95)
    assert forth.estimate > 0 > back.estimate
    assert forth.estimate == pytest.approx(-back.estimate)
    assert forth.low > 0 and forth.p_value < 0.01
    assert gain(metric, labels, old, new, 0.95) == forth  # the same pictures give the same interval
    same = gain(metric, labels, old, old, 0.95)
    assert (same.estimate, same.telling, same.p_value) == (0, 0, 1)


@pytest.mark.parametrize("metric", ["macro_f1", "macro_recall"])
def test_cells_are_resampled_as_pictures_are(metric: Metric) -> None:
    """The bootstrap over cells has the spread of one that draws pictures and calls scikit-learn."""
    from sklearn.metrics import f1_score, recall_score

    labels, old, new = _answers(2, 400, (0.75, 0.80))
    before, after = old.argmax(1), new.argmax(1)
    score = f1_score if metric == "macro_f1" else recall_score

    def difference(rows: np.ndarray) -> float:
        values = [score(labels[rows], each[rows], average="macro") for each in (after, before)]
        return float(values[0] - values[1])

    random = np.random.default_rng(0)
    drawn = [difference(random.integers(400, size=400)) for _ in range(200)]
    found = gain(metric, labels, old, new, 0.95)
    assert found.estimate == pytest.approx(difference(np.arange(400)))
    assert found.deviation / 20 == pytest.approx(np.std(drawn), rel=0.15)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.std(drawn), rel=0.15)


def test_log_loss_has_the_spread_of_the_mean_and_one_certain_error_does_not_decide() -> None:
    labels, old, new = _answers(3, 500, (0.8, 0.9))
    found = gain("log_loss", labels, old, new, 0.95)
    picture = np.arange(500)
    differences = np.log(new[picture, labels]) - np.log(old[picture, labels])
    assert found.estimate == pytest.approx(differences.mean())
    assert found.deviation == pytest.approx(differences.std(), rel=0.1)
    new[0] = np.eye(CLASSES)[(labels[0] + 1) % CLASSES]  # the right class has the probability 0
    assert np.isfinite(gain("log_loss", labels, old, new, 0.95).estimate)


def test_few_pictures_give_a_wide_interval_and_a_bootstrap_of_few_is_not_trusted() -> None:
    low, high, _ = proportion_interval(1, 0, 30, 0.95)
    assert low < -0.03 and high > 0.06
    assert proportion_interval(0, 0, 100, 0.95)[0] < 0 < proportion_interval(0, 0, 100, 0.95)[1]
    labels, old, _ = _answers(4, 300, (0.9, 0.9))
    wrong = np.flatnonzero(old.argmax(1) != labels)[: FEWEST - 1]
    new = old.copy()
    new[wrong] = np.eye(CLASSES)[labels[wrong]]
    found = gain("macro_f1", labels, old, new, 0.95)
    assert found.low > 0 and not found.enough
    assert needed(found, 0.01, 0.95) >= 300 * FEWEST / (FEWEST - 1)  # type: ignore[operator]
    assert gain("accuracy", labels, old, new, 0.95).enough


def test_with_the_pictures_that_are_needed_four_of_five_comparisons_decide() -> None:
    labels, old, new = _answers(5, 400, (0.85, 0.87))
    found = gain("accuracy", labels, old, new, 0.95)
    count = needed(found, 0.01, 0.95)
    assert count is not None and count > 400
    random = np.random.default_rng(0)
    decided = 0
    for _ in range(300):  # pictures like these, of which the true gain is the estimate
        rows = random.integers(400, size=count)
        decided += gain("accuracy", labels[rows], old[rows], new[rows], 0.95).low > -0.01
    assert 0.72 < decided / 300 < 0.90
    assert needed(gain("accuracy", labels, new, old, 0.95), 0.0, 0.95) is None


@pytest.mark.parametrize("metric", ["accuracy", "macro_recall"])
def test_intervals_hold_the_truth_as_often_as_they_say(metric: Metric) -> None:
    random = np.random.default_rng(0)
    labels, old, new = _answers(6, 20_000, (0.80, 0.82))
    truth = gain(metric, labels, old, new, 0.95).estimate
    held = 0
    for _ in range(200):
        rows = random.choice(len(labels), size=300, replace=False)
        found = gain(metric, labels[rows], old[rows], new[rows], 0.95)
        held += found.low <= truth <= found.high
    assert 0.91 < held / 200 < 0.99
    assert RESAMPLES >= 1000
