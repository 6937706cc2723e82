"""What the server does now: its load, a running experiment, drift."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from raycls.console.page import HEADERS, Page, fields_of, go, render, server_of, session_of
from raycls.console.server import ServerError
from raycls.serving.client import scrape
from raycls.serving.client.scrape import Histogram, Replica

SECONDS = "raycls_request_seconds"


async def show(request: Request) -> Response:
    server, session = server_of(request), session_of(request)
    experiments = (await server.call(session, "GET", "/experiments"))["experiments"]
    running = next((each for each in experiments if each["state"] == "running"), None)
    if running:
        running = await server.call(session, "GET", f"/experiments/{running['id']}")
    windows = (await server.call(session, "GET", "/drift"))["windows"]
    health = await server.call(session, "GET", "/health")
    versions = (await server.call(session, "GET", "/models"))["models"]
    model = health["model"]
    others = [
        f"{each['name']}/{each['version']}"
        for each in versions
        if each["name"] == model["name"] and each["version"] != model["version"]
    ]
    return render(
        request,
        "live.html",
        model=model,
        running=running,
        ended=[each for each in experiments if each["state"] != "running"][:5],
        others=others[::-1],
        window=windows[0] if windows else None,
    )


async def numbers(request: Request) -> Response:
    """Answer the counts of all replicas since they started; the page shows what changes between two answers."""
    text = (await server_of(request).answer(session_of(request), "GET", "/metrics")).text
    replicas = scrape.parse(text)
    return JSONResponse({"time": time.time(), **_summed(replicas)}, headers=HEADERS)


def _summed(replicas: dict[str, Replica]) -> dict[str, Any]:
    seconds = Histogram(0, 0, {})
    answers: dict[str, float] = {}
    for replica in replicas.values():
        seconds = seconds.plus(replica.histograms.get(SECONDS, Histogram(0, 0, {})))
        for status, count in replica.answers.items():
            answers[status] = answers.get(status, 0) + count
    buckets = [
        [bound if bound != float("inf") else None, count] for bound, count in sorted(seconds.buckets.items())
    ]
    return {
        "replicas": len(replicas),
        "models": sorted({replica.model for replica in replicas.values()}),
        "pending": sum(replica.pending for replica in replicas.values()),
        "answers": answers,
        "buckets": buckets,
    }


async def start(request: Request) -> Response:
    form = await fields_of(request)
    try:
        share = float(form.get("share", ""))
    except ValueError:
        return go(request, "/live", "the share is a number, like 0.2", bad=True)
    wanted = {
        "challenger": form.get("challenger", ""),
        "mode": form.get("mode", ""),
        "share": share,
    }
    return await _changed(request, "POST", wanted, "the experiment has begun: its challenger starts")


async def stop(request: Request) -> Response:
    return await _changed(request, "DELETE", {"reason": "ended in the console"}, "the experiment has ended")


async def _changed(request: Request, method: str, wanted: dict[str, Any], say: str) -> Response:
    try:
        await server_of(request).call(session_of(request), method, "/experiments", json=wanted)
    except ServerError as error:
        return go(request, "/live", error.detail, bad=True)
    return go(request, "/live", say)


PAGES = [
    Page("GET", "/live", "admin", show),
    Page("GET", "/live/numbers", "admin", numbers),
    Page("POST", "/live/experiment", "admin", start),
    Page("POST", "/live/experiment/stop", "admin", stop),
]
