"""How many images went through the network at a time, and for how long, by the replicas' own counts.

before = scrape(url, replicas=2)                         # url: http://127.0.0.1:8000/predict
...                                                      # load
mean, most = between(before, scrape(url, replicas=2))
ms = forward_ms(url, image)                              # of the one replica there, without load
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
SCRAPE_S = 10  # how long to wait for all replicas to be known
WINDOWS, REQUESTS = 7, 50  # of forward_ms


def scrape(url: str, replicas: int | None, metric: str = IMAGES) -> dict[str, Histogram]:
    """Each replica's histogram by replica id, from /metrics on the server of `url`; {} where there is none.

    replicas: how many there are, where that is known; one that has just begun may not be told of at once. Raises
    BenchmarkError when some never are.
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
                f"{len(found)} of {replicas} replicas are told of at {urljoin(url, '/metrics')}"
            )
        time.sleep(0.2)


def between(before: dict[str, Histogram], after: dict[str, Histogram]) -> tuple[float, float] | None:
    """Mean batch size and the largest batches' bucket, over all replicas; None where there was no batch."""
    grown = [after[replica].since(before[replica]) for replica in before.keys() & after.keys()]
    if not grown:
        return None
    together = reduce(Histogram.plus, grown)
    return (together.mean, together.largest) if together.mean and together.largest else None


def forward_ms(url: str, image: bytes, batch: int = 1) -> float:
    """Milliseconds of the only replica's forward pass over so many images, as it counts them itself.

    The median of WINDOWS means, each over REQUESTS requests, one after another. Raises BenchmarkError.
    """
    means = []
    with local_http.session(url) as session:
        session.headers.update(auth.headers())
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
                raise BenchmarkError(f"{url} counts no forward pass")
            means.append(1000 * mean)
    return statistics.median(means)
