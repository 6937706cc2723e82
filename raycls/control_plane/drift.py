"""The route about drift."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls.control_plane.route import ControlRoute
from raycls.lifecycle import drift_windows
from raycls.serving.replica.answer import json_response


async def list_windows(request: Request) -> Response:
    windows = await run_in_threadpool(drift_windows.windows)
    return json_response({"windows": [window.as_json() for window in windows]})


ROUTES = [
    ControlRoute("GET", "/drift", "admin", list_windows, "List the last windows that were examined for drift")
]
