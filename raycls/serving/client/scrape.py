"""GET /metrics as numbers, and the difference between two readings.

    before = read("http://127.0.0.1:8000/metrics")
    ...
    for name, replica in read("http://127.0.0.1:8000/metrics").items():
        past = replica.since(before[name])
        sum(past.answers.values()), past.histograms["raycls_request_seconds"].quantile(0.99)

Knows the names of the series (raycls/serving/replica/metrics.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from raycls import local_http
from raycls.errors import ClusterError
from raycls.metrics import bucket_quantile
from raycls.serving import auth

TIMEOUT_S = 10


@dataclass(frozen=True)
class Histogram:
    """The count of observations, their sum, and how many are at most each bucket's upper bound."""

    count: float
    total: float
    buckets: dict[float, float]

    def since(self, before: Histogram) -> Histogram:
        """Return the observations that were made after `before`, an earlier reading of this histogram."""
        return Histogram(
            self.count - before.count,
            self.total - before.total,
            {bound: upto - before.buckets.get(bound, 0) for bound, upto in self.buckets.items()},
        )

    def plus(self, other: Histogram) -> Histogram:
        """Return the sum of two histograms with the same buckets; one of them may be empty."""
        return Histogram(
            self.count + other.count,
            self.total + other.total,
            {
                bound: self.buckets.get(bound, 0) + other.buckets.get(bound, 0)
                for bound in {**self.buckets, **other.buckets}
            },
        )

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    @property
    def largest(self) -> float | None:
        """The upper bound of the highest bucket that is not empty."""
        below, bound = 0.0, None
        for candidate, upto in sorted(self.buckets.items()):
            bound = candidate if upto > below else bound
            below = upto
        return bound

    def quantile(self, share: float) -> float | None:
        """Return a quantile, linear within its bucket (raycls.metrics.bucket_quantile); None where it is empty."""
        bounds = sorted(self.buckets)
        upto = [self.buckets[bound] for bound in bounds]
        counts = [after - before for before, after in zip([0.0, *upto], upto, strict=False)]
        finite = [bound for bound in bounds if bound != float("inf")]
        return bucket_quantile(finite, counts, share)


@dataclass(frozen=True)
class Replica:
    """One replica: its model, the requests that it holds, its answers by status, its histograms by metric."""

    model: str
    pending: int = 0
    answers: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def since(self, before: Replica) -> Replica:
        """Return what the replica did after `before`, an earlier reading."""
        return Replica(
            self.model,
            self.pending,
            {status: count - before.answers.get(status, 0) for status, count in self.answers.items()},
            {
                name: histogram.since(before.histograms[name]) if name in before.histograms else histogram
                for name, histogram in self.histograms.items()
            },
        )


def read(url: str) -> dict[str, Replica] | None:
    """Return the replicas by id; None where the server has no such page. url ends in /metrics. Raises ClusterError."""
    try:
        response = local_http.request("GET", url, timeout=TIMEOUT_S, headers=auth.headers(url))
    except requests.RequestException as error:
        raise ClusterError(
            f"no server answers at {url} ({type(error).__name__}): start one with `raycls up`"
        ) from None
    if response.status_code == 404:
        return None
    if not response.ok:
        raise ClusterError(f"{url} answers {response.status_code}: {response.text[:200]}")
    return parse(response.text)


def parse(text: str) -> dict[str, Replica]:
    """Return the replicas in a Prometheus text, by id."""
    families = {family.name: family for family in text_string_to_metric_families(text)}
    names = {
        sample.labels["replica"]
        for family in families.values()
        for sample in family.samples
        if "replica" in sample.labels
    }
    return {name: _replica(name, families.values()) for name in sorted(names)}


def _replica(name: str, families: Iterable[Metric]) -> Replica:
    model, pending, answers, histograms = "", 0, {}, {}
    for family in families:
        own = [sample for sample in family.samples if sample.labels.get("replica") == name]
        if not own:
            continue
        if family.name == "raycls_model_info":
            model = f"{own[0].labels['name']}/{own[0].labels['version']}"
        elif family.name == "raycls_pending":
            pending = int(own[0].value)
        elif family.name == "raycls_requests":
            answers = {s.labels["status"]: s.value for s in own if s.name.endswith("_total")}
        elif family.type == "histogram":
            values = {sample.name.removeprefix(family.name): sample.value for sample in own}
            buckets = {float(s.labels["le"]): s.value for s in own if s.name.endswith("_bucket")}
            histograms[family.name] = Histogram(values["_count"], values["_sum"], buckets)
    return Replica(model, pending, answers, histograms)
