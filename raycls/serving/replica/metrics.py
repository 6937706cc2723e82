"""The counts of replicas, as Prometheus text at GET /metrics.

    metrics = Metrics("9x3k2a", version, classes, "torch", "cpu")
    metrics.request(200, seconds=0.004)
    metrics.batch(waited, decode_seconds=0.001, forward_seconds=0.002)
    metrics.answers(predictions)
    exposition([metrics.collect(), *those_of_the_other_replicas])

Every scrape shows the series of all replicas, whichever replica it reaches. The label `replica` keeps them apart, so
that a replica that is gone ends its own series and makes no sum fall. Counting is a few additions; prometheus_client
makes names, help and text when a scrape asks for them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from math import isfinite
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

from raycls.config import Engine
from raycls.engines.predictor import Prediction
from raycls.registry import ModelVersion

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
# For one image: from what a small network takes in a large batch, in steps of √10.
IMAGE_SECONDS = tuple(10 ** (power / 2) for power in range(-10, 3))
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)


class _Histogram:
    """Observations by bucket. One thread writes; a reader may see an observation's count before its sum."""

    def __init__(self, bounds: Sequence[float]):
        self._bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def family(self, name: str, documentation: str, replica: str) -> Metric:
        family = HistogramMetricFamily(name, documentation, labels=["replica"])
        buckets, below = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), below))
        family.add_metric([replica], buckets, self.sum)
        return family


class Metrics:
    """The counts of one replica."""

    def __init__(
        self, replica: str, version: ModelVersion, classes: Sequence[str], engine: Engine, device: str
    ):
        self._replica, self._classes = replica, classes
        self._model = {"name": version.name, "version": version.version, "engine": engine, "device": device}
        self._requests: Counter[int] = Counter()
        self._predicted = [0] * len(classes)
        self._rejects, self._rejected = version.rejection is not None, 0
        self._duration, self._queue = _Histogram(SECONDS), _Histogram(SECONDS)
        self._decode, self._forward = _Histogram(SECONDS), _Histogram(SECONDS)
        self._image = _Histogram(IMAGE_SECONDS)  # a forward pass, divided by its images
        self._sizes, self._confidence = _Histogram(IMAGES), _Histogram(CONFIDENCE)
        self._confidence_squares = 0.0
        self.started = time.time()
        self.not_finite = 0  # images for which the network gave no numbers

    def request(self, status: int, seconds: float | None = None, count: int = 1) -> None:
        """Count one answered request, or `count`. seconds: from its head to its predictions, where it had any."""
        self._requests[status] += count
        if seconds is not None:
            self._duration.add(seconds)

    def batch(self, waited: Sequence[float], decode_seconds: float, forward_seconds: float | None) -> None:
        """Count one batch. waited: the seconds of each image between its request's last byte and the batch's start.

        forward_seconds: None where no image of the batch could be read.
        """
        self._sizes.add(len(waited))
        for seconds in waited:
            self._queue.add(seconds)
        self._decode.add(decode_seconds)
        if forward_seconds is not None:
            self._forward.add(forward_seconds)
            self._image.add(forward_seconds / len(waited))

    def answers(self, predictions: Iterable[Prediction]) -> None:
        """Count predictions by class and by confidence, but those that are no numbers: see `not_finite`."""
        for prediction in predictions:
            if not isfinite(prediction.confidence):
                continue
            self._predicted[prediction.class_index] += 1
            self._confidence.add(prediction.confidence)
            self._confidence_squares += prediction.confidence**2
            if prediction.rejected:
                self._rejected += 1

    def as_arm(self) -> dict[str, Any]:
        """Return the counts that the guards compare: the fields of raycls.lifecycle.guards.ArmCounts.

        Of two versions that answered at different times, one may have met more traffic. So the counts have the
        network's own time too: of each batch, the seconds of its forward pass for one image.
        """
        return {
            "requests": sum(self._duration.counts) + self._requests[500],
            "errors": self._requests[500],
            "not_finite": self.not_finite,
            "bounds": SECONDS,
            "latencies": self._duration.counts,
            "image_bounds": IMAGE_SECONDS,
            "image_latencies": self._image.counts,
            "confidences": sum(self._confidence.counts),
            "confidence_sum": self._confidence.sum,
            "confidence_squares": self._confidence_squares,
        }

    def as_traffic(self) -> dict[str, Any]:
        """Return what the control plane keeps of the last hour, as counts since the start: the fields of
        raycls.control_plane.traffic.Traffic."""
        return {
            "requests": sum(self._requests.values()),
            "failed": sum(count for status, count in self._requests.items() if status >= 500),
            "refused": self._requests[429],
            "latencies": list(self._duration.counts),
            "confidences": sum(self._confidence.counts),
            "confidence_sum": self._confidence.sum,
            "batches": sum(self._sizes.counts),
            "images": round(self._sizes.sum),
            "classes": {
                name: count for name, count in zip(self._classes, self._predicted, strict=True) if count
            },
        }

    def collect(self, pending: int = 0) -> list[Metric]:
        """Return this replica's series, for the replica that was asked. pending: requests that it holds."""
        held = GaugeMetricFamily("raycls_pending", "Requests held, waiting or computed", labels=["replica"])
        held.add_metric([self._replica], pending)
        requests = CounterMetricFamily("raycls_requests", "Requests answered", labels=["replica", "status"])
        for status, count in sorted(self._requests.items()):
            requests.add_metric([self._replica, str(status)], count)
        predicted = CounterMetricFamily(
            "raycls_predictions", "Images by the class they were given", labels=["replica", "class_name"]
        )
        for name, count in zip(self._classes, self._predicted, strict=True):
            predicted.add_metric([self._replica, name], count)
        rejected = CounterMetricFamily(
            "raycls_rejected",
            "Images whose answer was below the threshold of `raycls reject`; none without one",
            labels=["replica"],
        )
        if self._rejects:
            rejected.add_metric([self._replica], self._rejected)
        model = InfoMetricFamily("raycls_model", "The model version served, and by what", labels=["replica"])
        model.add_metric([self._replica], self._model)
        histograms = [
            ("raycls_request_seconds", "From a request's head to its predictions", self._duration),
            ("raycls_queue_seconds", "An image's wait for the batch it is in", self._queue),
            ("raycls_decode_seconds", "Decoding of one batch, from bytes to pixels", self._decode),
            ("raycls_forward_seconds", "Forward pass of one batch, pixels to probabilities", self._forward),
            ("raycls_batch_images", "Images in one batch", self._sizes),
            ("raycls_confidence", "Probability of the class that was answered", self._confidence),
        ]
        drawn = [histogram.family(name, text, self._replica) for name, text, histogram in histograms]
        return [requests, predicted, rejected, model, held, *drawn]


class _Merged(Collector):
    """Every family once, with the samples of all replicas."""

    def __init__(self, replicas: Iterable[list[Metric]]):
        self._families: dict[str, Metric] = {}
        for family in chain.from_iterable(replicas):
            found = self._families.setdefault(family.name, family)
            if found is not family:
                found.samples += family.samples

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


def exposition(replicas: Iterable[list[Metric]], *, complete: bool = True) -> Response:
    """Return the series of several replicas as one Prometheus text. complete: whether all replicas are in it."""
    told = GaugeMetricFamily("raycls_complete", "1 where the counts of all replicas are here", int(complete))
    return Response(
        generate_latest(_Merged([*replicas, [told]])),
        headers={"Content-Type": CONTENT_TYPE_LATEST},
    )
