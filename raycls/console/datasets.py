"""Dataset versions: class counts, splits, what was left out, what a check found, pictures, and what is new in one."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from raycls.console.page import HEADERS, Page, go, part_of, render, server_of, session_of
from raycls.console.server import ServerError

SHOWN = 100  # left-out files on the page
KINDS = ("added", "removed", "relabelled", "moved")  # of differences between two versions


async def list_all(request: Request) -> Response:
    found = (await server_of(request).call(session_of(request), "GET", "/datasets"))["datasets"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for version in sorted(found, key=lambda version: version["version"], reverse=True):
        by_name.setdefault(version["name"], []).append(version)
    return render(request, "datasets.html", datasets=by_name)


async def show(request: Request) -> Response:
    info = await server_of(request).call(session_of(request), "GET", _path(request))
    changed = None
    if info["version"] > 1:
        try:
            changed = await server_of(request).call(
                session_of(request), "GET", f"{_path(request)}/differences"
            )
        except ServerError as error:
            if error.status != 404:  # the version before was removed
                raise
    checked = await server_of(request).call(session_of(request), "GET", f"{_path(request)}/check")
    return render(
        request, "dataset.html", info=info, changed=changed, kinds=KINDS, shown=SHOWN, checked=checked
    )


async def check(request: Request) -> Response:
    await server_of(request).call(session_of(request), "POST", f"{_path(request)}/check")
    return go(request, _path(request))


async def sheet(request: Request) -> Response:
    answer = await server_of(request).answer(session_of(request), "GET", f"{_path(request)}/sheet")
    return Response(answer.content, media_type="image/png", headers=HEADERS)


async def picture(request: Request) -> Response:
    path = f"{_path(request)}/pictures/{part_of(request, 'split')}/{part_of(request, 'row')}"
    answer = await server_of(request).answer(session_of(request), "GET", path)
    return Response(answer.content, media_type="image/png", headers=HEADERS)


def _path(request: Request) -> str:
    return f"/datasets/{part_of(request, 'name')}/{part_of(request, 'version')}"


PAGES = [
    Page("GET", "/datasets", "admin", list_all),
    Page("GET", "/datasets/{name}/{version}", "admin", show),
    Page("POST", "/datasets/{name}/{version}/check", "admin", check),
    Page("GET", "/datasets/{name}/{version}/sheet", "admin", sheet),
    Page("GET", "/datasets/{name}/{version}/pictures/{split}/{row}", "admin", picture),
]
