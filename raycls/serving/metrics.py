"""What one replica counts, in Prometheus text at GET /metrics.

    metrics.request(200, seconds=0.004)
    metrics.batch(17, seconds=0.003)

Per replica: with several, each scrape reaches one of them, and the label `replica` says which. The sums over all
replicas are Ray's own metrics, which Ray exports on its metrics port.
"""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    generate_latest,
)
from ray import serve
from starlette.responses import Response

from raycls.registry import ModelVersion

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Counters and histograms of the replica this is made in."""

    def __init__(self, version: ModelVersion):
        self.registry = CollectorRegistry()
        replica = serve.get_replica_context().replica_id.unique_id
        requests = Counter(
            "raycls_requests", "Requests answered", ["replica", "status"], registry=self.registry
        )
        duration = Histogram(
            "raycls_request_seconds",
            "From the request's head to its answer",
            ["replica"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        sizes = Histogram(
            "raycls_batch_images",
            "Images in one forward pass",
            ["replica"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        passes = Histogram(
            "raycls_batch_seconds",
            "Decoding and forward pass of one batch",
            ["replica"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        model = Info("raycls_model", "The model version served", ["replica"], registry=self.registry)
        model.labels(replica).info({"name": version.name, "version": version.version})
        self._replica, self._requests = replica, requests
        self._duration, self._sizes, self._passes = (h.labels(replica) for h in (duration, sizes, passes))

    def request(self, status: int, seconds: float) -> None:
        self._requests.labels(self._replica, str(status)).inc()
        self._duration.observe(seconds)

    def batch(self, images: int, seconds: float) -> None:
        self._sizes.observe(images)
        self._passes.observe(seconds)

    def response(self) -> Response:
        return Response(generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
