"""The statistics of two classifiers' answers to the same pictures.

    found = gain("accuracy", labels, champion, challenger, confidence=0.95)
    found.estimate, found.low, found.high, found.p_value

A gain is a difference in favour of the challenger: for log_loss, the champion's minus the challenger's. Both answers to
a picture stay together, because most pictures are equally hard for both. Answers are probabilities: float N×C. Labels
are int64 N. This module knows arrays and nothing of models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from raycls import metrics
from raycls.registry.policy import Metric

RESAMPLES = 2000  # of the bootstrap
CHUNK = 2_000_000  # numbers drawn at a time: 16 MB
# A bootstrap of fewer pictures that say anything is too narrow: with one such picture, its lower end is 0.
FEWEST = 20
POWER = 0.8  # probability of a decision with as many pictures as `needed` returns


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The paired difference of a metric on N pictures, in the metric's own unit.

    low, high: the ends of its two-sided interval. p_value: two-sided, for no difference: McNemar's exact test for
    accuracy, the bootstrap's for the other metrics. deviation: the standard error times the root of N. telling: the
    pictures on which the two differ in what the metric counts.
    """

    metric: Metric
    pictures: int
    estimate: float
    low: float
    high: float
    p_value: float
    deviation: float
    telling: int

    @property
    def enough(self) -> bool:
        """Return whether the interval can be trusted. That of accuracy always can, a bootstrap's from FEWEST on."""
        return self.metric == "accuracy" or self.telling >= FEWEST


def gain(
    metric: Metric, labels: np.ndarray, champion: np.ndarray, challenger: np.ndarray, confidence: float
) -> Gain:
    """Return the gain of the challenger. The same arrays always give the same interval."""
    if metric == "accuracy":
        return _accuracy_gain(labels, champion, challenger, confidence)
    if metric == "log_loss":
        differences = metrics.log_losses(champion, labels) - metrics.log_losses(challenger, labels)
        estimate, drawn, telling = (
            float(differences.mean()),
            _means(differences),
            np.count_nonzero(differences),
        )
    else:
        answers = champion.argmax(1), challenger.argmax(1)
        estimate, drawn = _macro(metric, labels, *answers, classes=champion.shape[1])
        telling = np.count_nonzero(answers[0] != answers[1])
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    extreme = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Gain(
        metric=metric,
        pictures=len(labels),
        estimate=estimate,
        low=float(low),
        high=float(high),
        # The one more keeps it above 0: Davison and Hinkley, Bootstrap Methods and their Application (1997), 4.11.
        p_value=min(1.0, 2 * (extreme + 1) / (RESAMPLES + 1)),
        deviation=float(drawn.std()) * math.sqrt(len(labels)),
        telling=int(telling),
    )


def needed(found: Gain, margin: float, confidence: float) -> int | None:
    """Return how many pictures decide with probability POWER, if the true gain is the estimate, but at least 0.

    With N pictures the lower end is z·deviation/√N below the estimate. The usual sample size of a test of
    non-inferiority asks that it is above -margin. None: no number of pictures is enough.
    """
    from scipy.stats import norm

    distance = margin + max(found.estimate, 0.0)
    if distance <= 0:
        return None
    z = norm.ppf((1 + confidence) / 2) + norm.ppf(POWER)
    by_variance = (z * found.deviation / distance) ** 2
    by_telling = 0.0 if found.enough else FEWEST * found.pictures / max(found.telling, 1)
    return math.ceil(max(by_variance, by_telling))


def proportion_interval(
    better: int, worse: int, pictures: int, confidence: float
) -> tuple[float, float, float]:
    """Return low, high and standard error of the difference of two paired proportions.

    better, worse: the pictures that only the challenger, and only the champion, answers right. Half a picture is added
    to each cell, so that the interval keeps its confidence with few pictures and never has the length 0: Agresti and
    Min, Simple improved confidence intervals for comparing matched proportions (Statistics in Medicine 24, 2005).
    """
    from scipy.stats import norm

    total, difference = pictures + 2, (better - worse) / (pictures + 2)
    error = math.sqrt(better + worse + 1 - total * difference**2) / total
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    return max(-1.0, difference - reach), min(1.0, difference + reach), error


def _accuracy_gain(
    labels: np.ndarray, champion: np.ndarray, challenger: np.ndarray, confidence: float
) -> Gain:
    from scipy.stats import binomtest

    was_right, is_right = champion.argmax(1) == labels, challenger.argmax(1) == labels
    better, worse = int((is_right & ~was_right).sum()), int((was_right & ~is_right).sum())
    low, high, error = proportion_interval(better, worse, len(labels), confidence)
    return Gain(
        metric="accuracy",
        pictures=len(labels),
        estimate=(better - worse) / len(labels),
        low=low,
        high=high,
        # McNemar's exact test: of the pictures that one alone answers right, each has it in half of them.
        p_value=float(binomtest(better, better + worse).pvalue) if better + worse else 1.0,
        deviation=error * math.sqrt(len(labels)),
        telling=better + worse,
    )


def _means(differences: np.ndarray) -> np.ndarray:
    """Return float64 RESAMPLES: the mean of each resample of the pictures, drawn with replacement."""
    random, count = np.random.default_rng(0), len(differences)
    rows = max(1, CHUNK // count)
    return np.concatenate(
        [
            differences[random.integers(count, size=(min(rows, RESAMPLES - start), count))].mean(1)
            for start in range(0, RESAMPLES, rows)
        ]
    )


def _macro(
    metric: Metric, labels: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int
) -> tuple[float, np.ndarray]:
    """Return the gain of a macro metric, and that of each resample (float64 RESAMPLES).

    before, after: int64 N, the class that each model answers. The pictures with the same label and the same two answers
    are one cell. A resample of the pictures is a multinomial draw of the cells' counts, which is the same and faster.
    """
    cells, counts = np.unique(np.stack([labels, before, after]), axis=1, return_counts=True)
    # cells×C: whether a cell's pictures have this label, and whether each model gives this answer.
    label, old, new = (np.eye(classes)[values] for values in cells)

    def gains(draws: np.ndarray) -> np.ndarray:  # draws: ...×cells
        images = draws @ label
        values = []
        for answered in (old, new):
            right = draws @ (answered * label)
            values.append(
                metrics.macro_recall(right, images)
                if metric == "macro_recall"
                else metrics.macro_f1(right, draws @ answered, images)
            )
        return values[1] - values[0]

    random, rows = np.random.default_rng(0), max(1, CHUNK // max(len(counts), classes))
    shares = counts / counts.sum()
    drawn = [
        gains(random.multinomial(len(labels), shares, size=min(rows, RESAMPLES - start)).astype(float))
        for start in range(0, RESAMPLES, rows)
    ]
    return float(gains(counts.astype(float))), np.concatenate(drawn)
