"""Dataset versions: class counts and splits, what was left out, pictures by class, and differences of two versions."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from raycls.console.page import HEADERS, Page, part_of, render, server_of, session_of

SHOWN = 100  # left-out files on the page


async def list_all(request: Request) -> Response:
    found = (await server_of(request).call(session_of(request), "GET", "/datasets"))["datasets"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for version in sorted(found, key=lambda version: version["version"], reverse=True):
        by_name.setdefault(version["name"], []).append(version)
    return render(request, "datasets.html", datasets=by_name)


async def show(request: Request) -> Response:
    info = await server_of(request).call(session_of(request), "GET", _path(request))
    former = None
    if info["version"] > 1:
        listed = (await server_of(request).call(session_of(request), "GET", "/datasets"))["datasets"]
        before = [
            each for each in listed if each["name"] == info["name"] and each["version"] < info["version"]
        ]
        former = max(before, key=lambda each: each["version"], default=None)
    return render(request, "dataset.html", info=info, former=former, shown=SHOWN)


async def sheet(request: Request) -> Response:
    answer = await server_of(request).answer(session_of(request), "GET", f"{_path(request)}/sheet")
    return Response(answer.content, media_type="image/png", headers=HEADERS)


def _path(request: Request) -> str:
    return f"/datasets/{part_of(request, 'name')}/{part_of(request, 'version')}"


PAGES = [
    Page("GET", "/datasets", "admin", list_all),
    Page("GET", "/datasets/{name}/{version}", "admin", show),
    Page("GET", "/datasets/{name}/{version}/sheet", "admin", sheet),
]
