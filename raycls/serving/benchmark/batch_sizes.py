"""How many images went through the network at a time, read from outside: from the replicas' GET /metrics.

    before = scrape(url, replicas=2)                         # url: http://127.0.0.1:8000/predict
    ...                                                      # load
    mean, most = between(before, scrape(url, replicas=2))

A scrape reaches whichever replica the ingress picks, so it is repeated until every one has answered.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from urllib.parse import urljoin

import requests
from prometheus_client.parser import text_string_to_metric_families

from raycls.errors import BenchmarkError

METRIC = "raycls_batch_images"
TRIES_PER_REPLICA = 30


@dataclass(frozen=True)
class Histogram:
    """Batches so far, images in them, and batches by their bucket's upper bound (cumulative)."""

    batches: float
    images: float
    buckets: dict[float, float]


def scrape(url: str, replicas: int | None) -> dict[str, Histogram]:
    """Each replica's histogram by replica id, from /metrics on the server of `url`; {} where there is none.

    replicas None takes those that eight scrapes find. Raises BenchmarkError when some never answer.
    """
    metrics = urljoin(url, "/metrics")
    found: dict[str, Histogram] = {}
    for _ in range(replicas * TRIES_PER_REPLICA if replicas else 8):
        # A connection of its own each time: one that is kept would stay with one replica.
        response = requests.get(metrics, timeout=10, headers={"Connection": "close"})
        if response.status_code != 200:
            return {}
        found |= _parse(response.text)
        if len(found) == replicas:
            return found
    if replicas:
        raise BenchmarkError(f"{len(found)} of {replicas} replicas answer at {metrics}")
    return found


def between(before: dict[str, Histogram], after: dict[str, Histogram]) -> tuple[float, float] | None:
    """Mean batch size and the largest batches' bucket, over all replicas; None where there was no batch."""
    grown: defaultdict[float, float] = defaultdict(float)
    batches = images = 0.0
    for replica in before.keys() & after.keys():
        old, new = before[replica], after[replica]
        batches += new.batches - old.batches
        images += new.images - old.images
        below = 0.0
        for bound in sorted(new.buckets):
            upto = new.buckets[bound] - old.buckets[bound]
            grown[bound] += upto - below
            below = upto
    if not batches:
        return None
    return images / batches, max(bound for bound, count in grown.items() if count > 0)


def _parse(text: str) -> dict[str, Histogram]:
    histograms = {}
    for family in text_string_to_metric_families(text):
        if family.name != METRIC:
            continue
        for replica in {sample.labels["replica"] for sample in family.samples}:
            own = [sample for sample in family.samples if sample.labels["replica"] == replica]
            values = {sample.name.removeprefix(METRIC): sample.value for sample in own}
            buckets = {float(s.labels["le"]): s.value for s in own if s.name.endswith("_bucket")}
            histograms[replica] = Histogram(values["_count"], values["_sum"], buckets)
    return histograms
