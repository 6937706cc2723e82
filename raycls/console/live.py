"""What the server does now: its load, a running experiment, drift."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from raycls.console.chart import chart
from raycls.console.page import (
    HEADERS,
    TEMPLATES,
    Page,
    fields_of,
    go,
    render,
    root_of,
    server_of,
    session_of,
)
from raycls.console.server import ServerError

HOUR_CHARTS = (("requests_per_s",), ("p50_ms", "p99_ms"), ("confidence",), ("images_per_batch",))
CLASSES = 20  # on the page


async def show(request: Request) -> Response:
    server, session = server_of(request), session_of(request)
    experiments = (await server.call(session, "GET", "/experiments"))["experiments"]
    running = next((each for each in experiments if each["state"] == "running"), None)
    if running:
        running = await server.call(session, "GET", f"/experiments/{running['id']}")
    windows = (await server.call(session, "GET", "/drift"))["windows"]
    health = await server.call(session, "GET", "/health")
    model = health["model"]
    versions = (await server.call(session, "GET", f"/models?{urlencode({'name': model['name']})}"))["models"]
    others = [f"{each['name']}/{each['version']}" for each in versions if each["version"] != model["version"]]
    now = await server.call(session, "GET", "/live")
    return render(
        request,
        "live.html",
        **_drawn(now),
        model=model,
        running=running,
        ended=[each for each in experiments if each["state"] != "running"][:5],
        others=others,
        window=next((each for each in windows if each["version"].startswith(f"{model['name']}/")), None),
    )


async def hour(request: Request) -> Response:
    """Answer the part of the page that changes all the time."""
    found = await server_of(request).call(session_of(request), "GET", "/live")
    return HTMLResponse(
        TEMPLATES.get_template("live_hour.html").render(root=root_of(request), **_drawn(found)),
        headers=HEADERS,
    )


def _drawn(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the template live_hour.html needs of the answer of GET /live."""
    last = found["minutes"][-1]["ended"] if found["minutes"] else 0.0
    minutes = [minute | {"minutes": round((minute["ended"] - last) / 60)} for minute in found["minutes"]]
    answered = sum(found["classes"].values())
    classes = [(name, count, count / answered) for name, count in list(found["classes"].items())[:CLASSES]]
    return {
        "found": found,
        "up": str(timedelta(seconds=round(time.time() - found["since"]))),
        "at": time.time(),
        "charts": [
            chart(minutes, names, "minutes", from_zero=True) for names in HOUR_CHARTS if len(minutes) > 2
        ],
        "classes": classes,
        "more": len(found["classes"]) - len(classes),
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
    Page("GET", "/live/hour", "admin", hour),
    Page("POST", "/live/experiment", "admin", start),
    Page("POST", "/live/experiment/stop", "admin", stop),
]
