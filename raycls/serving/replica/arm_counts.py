"""What one replica counts of an experiment: of each version its answers, failures, latency, confidence and classes.

    counts = ExperimentCounts("a1b2", 10, 10)
    counts.challenger.answered(predictions, seconds=0.004)
    counts.as_json()                # what the control plane asks for and adds up

Constant memory; a few additions for each answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from math import isfinite
from typing import Any

from raycls.engines.predictor import Prediction
from raycls.serving.replica.metrics import SECONDS

FAULTS = ("late", "raised", "not_finite")  # the kinds of failures that are a version's own


class ArmCounts:
    """The counts of one version. seconds: by the buckets of raycls/serving/replica/metrics.py."""

    def __init__(self, classes: int):
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.seconds, self.seconds_sum = [0] * (len(SECONDS) + 1), 0.0
        self.confidence_sum = self.confidence_squares = 0.0
        self.predicted = [0] * classes

    def answered(self, predictions: Sequence[Prediction], seconds: float) -> None:
        """Count one request that this version answered. seconds: how long its predictions took."""
        self.requests += 1
        self.seconds[bisect_left(SECONDS, seconds)] += 1
        self.seconds_sum += seconds
        for prediction in predictions:
            if not isfinite(prediction.confidence):
                continue  # the sums are kept as JSON, which has no NaN
            self.predicted[prediction.class_index] += 1
            self.confidence_sum += prediction.confidence
            self.confidence_squares += prediction.confidence**2

    def failed(self, kind: str) -> None:
        """Count one request that this version did not answer."""
        self.failures[kind] += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "failures": dict(self.failures),
            "seconds": self.seconds,
            "confidence_sum": self.confidence_sum,
            "confidence_squares": self.confidence_squares,
            "predicted": self.predicted,
        }


class ExperimentCounts:
    """The counts of both versions in one replica.

    broken: it asks the challenger no more. replaced: requests of the challenger's share that the champion answered.
    """

    def __init__(self, experiment: str, champion_classes: int, challenger_classes: int):
        self.experiment = experiment
        self.champion, self.challenger = ArmCounts(champion_classes), ArmCounts(challenger_classes)
        self.agreed = self.disagreed = self.replaced = 0
        self.broken = False

    def compared(self, same: bool) -> None:
        """Count one image that both have classified."""
        if same:
            self.agreed += 1
        else:
            self.disagreed += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "champion": self.champion.as_json(),
            "challenger": self.challenger.as_json(),
            "agreed": self.agreed,
            "disagreed": self.disagreed,
            "replaced": self.replaced,
            "broken": self.broken,
        }
