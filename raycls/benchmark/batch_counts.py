"""Batch sizes and forward-pass times, from the counters that the replicas publish at /metrics.

before = scrape(url, replicas=2)                         # url: http://127.0.0.1:8000/predict
...                                                      # load
mean, largest = between(before, scrape(url, replicas=2))
ms = forward_ms(url, image)                              # of a single replica without load
"""

from __future__ import annotations

import statistics
import time
from functools import reduce
from urllib.parse import urljoin

from raycls import local_http
from raycls.errors import BenchmarkError
from raycls.serving import auth
from raycls.serving.client.scrape import Histogram, read

IMAGES, FORWARD = "raycls_batch_images", "raycls_forward_seconds"
SCRAPE_S = 10  # how long to wait until /metrics lists all replicas
WINDOWS, REQUESTS = 7, 50  # forward_ms takes WINDOWS means, each over REQUESTS requests


def scrape(url: str, replicas: int | None, metric: str = IMAGES) -> dict[str, Histogram]:
    """Return each replica's histogram by replica id, from /metrics of the server; {} if it has no /metrics.

    replicas is their number, if it is known. A new replica may be missing from /metrics for a moment. Raises
    BenchmarkError if one is still missing after SCRAPE_S.
    """
    deadline = time.monotonic() + SCRAPE_S
    while True:
        counted = read(urljoin(url, "/metrics"))
        if counted is None:
            return {}
        found = {
            name: replica.histograms[metric]
            for name, replica in counted.items()
            if metric in replica.histograms
        }
        if replicas is None or len(found) == replicas:
            return found
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{urljoin(url, '/metrics')} lists {len(found)} of {replicas} replicas after {SCRAPE_S} s"
            )
        time.sleep(0.2)


def between(before: dict[str, Histogram], after: dict[str, Histogram]) -> tuple[float, float] | None:
    """Return the mean batch size and the upper bound of the largest batch, over all replicas; None without batches."""
    grown = [after[replica].since(before[replica]) for replica in before.keys() & after.keys()]
    if not grown:
        return None
    together = reduce(Histogram.plus, grown)
    return (together.mean, together.largest) if together.mean and together.largest else None


def forward_ms(url: str, image: bytes, batch: int = 1) -> float:
    """Return how long the forward pass of `batch` images takes, ms, as the single replica itself measures it.

    It is the median of WINDOWS means. Each is over REQUESTS requests, sent one after another. Raises BenchmarkError.
    """
    means = []
    with local_http.session(url) as session:
        session.headers.update(auth.headers(url))
        for _ in range(WINDOWS):
            (before,) = scrape(url, 1, FORWARD).values()
            for _ in range(REQUESTS):
                files = [("file", ("image.png", image)) for _ in range(batch)]
                response = session.post(url, files=files, timeout=30)
                if not response.ok:
                    raise BenchmarkError(f"{url} answers {response.status_code}: {response.text[:200]}")
            (after,) = scrape(url, 1, FORWARD).values()
            mean = after.since(before).mean
            if mean is None:
                raise BenchmarkError(f"{url} has counted no forward pass: is another server at this address?")
            means.append(1000 * mean)
    return statistics.median(means)
