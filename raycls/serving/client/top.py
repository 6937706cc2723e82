"""The view of `raycls top`: which replicas serve, and how fast.

for view in watch("http://127.0.0.1:8000", seconds=2):
    view.requests_per_s, view.replicas
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from urllib.parse import urljoin

from pydantic import BaseModel, Field

from raycls.errors import ClusterError
from raycls.serving.client.scrape import Histogram, Replica, read


class ReplicaView(BaseModel):
    """One replica in the past seconds. Times are in ms, None where it answered nothing."""

    name: str
    model: str
    requests_per_s: float = Field(description="answers of any status")
    errors_per_s: float = Field(description="answers of status 400 and above")
    p50_ms: float | None
    p99_ms: float | None
    pending: int = Field(description="requests held at the end")
    queue_p50_ms: float | None = Field(description="an image's wait for its batch")
    batch_images: float | None = Field(description="mean")


class View(BaseModel):
    """All replicas in the past seconds. problem: why their counts could not be read."""

    url: str
    seconds: float
    replicas: list[ReplicaView]
    p50_ms: float | None = None
    p99_ms: float | None = None
    problem: str | None = None

    @property
    def requests_per_s(self) -> float:
        return sum(replica.requests_per_s for replica in self.replicas)


def watch(url: str, seconds: float) -> Iterator[View]:
    """Yield a view every `seconds`, endlessly. Raises ClusterError where no server answers the first time."""
    before, since = _read(url), time.monotonic()
    while True:
        time.sleep(seconds)
        try:
            after, now = _read(url), time.monotonic()
        except ClusterError as error:
            yield View(url=url, seconds=time.monotonic() - since, replicas=[], problem=str(error))
            continue
        lasted = now - since
        # A replica that appears for the first time has no earlier reading.
        past = {name: after[name].since(before[name]) for name in after if name in before}
        spent = functools.reduce(
            Histogram.plus,
            (_histogram(replica, "request_seconds") for replica in past.values()),
            Histogram(0, 0, {}),
        )
        yield View(
            url=url,
            seconds=lasted,
            replicas=[_row(name, replica, lasted) for name, replica in past.items()],
            p50_ms=_ms(spent.quantile(0.5)),
            p99_ms=_ms(spent.quantile(0.99)),
        )
        before, since = after, now


def _read(url: str) -> dict[str, Replica]:
    page = urljoin(url, "/metrics")
    found = read(page)
    if found is None:
        raise ClusterError(f"there is no {page}: is that raycls?")
    return found


def _histogram(replica: Replica, metric: str) -> Histogram:
    return replica.histograms.get(f"raycls_{metric}", Histogram(0, 0, {}))


def _row(name: str, past: Replica, seconds: float) -> ReplicaView:
    spent, queue, batches = (
        _histogram(past, name) for name in ("request_seconds", "queue_seconds", "batch_images")
    )
    return ReplicaView(
        name=name,
        model=past.model,
        requests_per_s=sum(past.answers.values()) / seconds,
        errors_per_s=sum(count for status, count in past.answers.items() if status >= "400") / seconds,
        p50_ms=_ms(spent.quantile(0.5)),
        p99_ms=_ms(spent.quantile(0.99)),
        pending=past.pending,
        queue_p50_ms=_ms(queue.quantile(0.5)),
        batch_images=batches.mean,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
