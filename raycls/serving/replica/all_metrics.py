"""GET /metrics: one replica asks the others for their counts, because a client cannot choose whom it reaches."""

from __future__ import annotations

import asyncio

from prometheus_client import Metric
from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.responses import Response

from raycls.serving.replica.drift_sums import DriftSums
from raycls.serving.replica.metrics import exposition

SCRAPE_S = 2.0  # the time that the other replicas have to send their counts


async def of_all_replicas(own: list[Metric], drift: DriftSums | None) -> Response:
    """Return the counts of all replicas. Where one does not answer, the page is incomplete and says so.

    own: this replica's counts. Must run in a replica, whose deployment has a method `counts`.
    """
    here = serve.get_replica_context()
    # The first call asks the controller and waits for it.
    handle = await asyncio.to_thread(serve.get_deployment_handle, here.deployment, here.app_name)
    # Not results_async: where one replica is silent, it keeps back what the others have sent.
    results = handle.broadcast("counts").results
    try:
        received = await asyncio.to_thread(results, timeout_s=SCRAPE_S, return_exceptions=True)
    except (TimeoutError, RayServeException):
        received = []
    found = [counts for counts in received if isinstance(counts, list)]
    complete = 0 < len(found) == len(received)
    found = found or [own]
    if drift:
        found.append(drift.families())
    return exposition(found, complete=complete)
