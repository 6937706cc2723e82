"""The route about what the server does now: the last hour, and what a person should look at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls.control_plane.experiment_watch import BY
from raycls.control_plane.route import ControlRoute
from raycls.control_plane.traffic import LastHour
from raycls.lifecycle import drift_windows, experiment, retraining
from raycls.serving.replica.answer import json_response

RECENT = timedelta(days=1)
LAST_MINUTES = 5
FEW = 5  # refused requests, of which nobody need be told: a browser sends an explanation again


async def show(request: Request) -> Response:
    hour: LastHour = request.app.state.hour
    found = hour.as_json()
    alarms = await run_in_threadpool(_alarms, found["minutes"][-LAST_MINUTES:])
    return json_response({**found, "alarms": alarms})


def _alarms(minutes: list[dict[str, Any]]) -> list[str]:
    """Return what a person should look at, each as a sentence."""
    found = []
    requests = sum(minute["requests"] for minute in minutes)
    refused = "were refused: too many came at once, or no core was left for an explanation"
    for name, what, few in (("failed", "failed", 1), ("refused", refused, max(FEW, requests / 100))):
        if (count := sum(minute[name] for minute in minutes)) >= few:
            found.append(f"{count:,} of {requests:,} requests of the last {len(minutes)} minutes {what}")
    found += [
        f"the pictures of {each.version} until {each.ended} are not as they were: {', '.join(each.alarms)}"
        for number, each in enumerate(drift_windows.last())
        if each.alarms and (number == 0 or _is_recent(each.ended))  # a model may be served no more
    ]
    found += [
        f"the retraining {each.id} of {each.wanted.model} failed: {each.error}"
        for each in retraining.records()
        if each.state == "failed" and _is_recent(each.ended)
    ]
    found += [
        f"the experiment with {each.experiment.challenger} was ended: {each.reason}"
        for each in experiment.records()
        if not each.is_running and each.ended_by == BY and _is_recent(each.ended)
    ]
    return found


def _is_recent(when: str) -> bool:
    """Return whether an ISO 8601 time is of the last day."""
    try:
        return datetime.now(UTC) - datetime.fromisoformat(when) < RECENT
    except ValueError:
        return False


ROUTES = [
    ControlRoute(
        "GET",
        "/live",
        "admin",
        show,
        "Show rates, latencies and classes of now and of the last hour, minute by minute, and what to look at",
    )
]
