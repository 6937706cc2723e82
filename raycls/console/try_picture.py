"""The first page: what the model thinks of a picture, and why; and that it was wrong."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from raycls.console.page import HEADERS, Page, json_of, render, server_of, session_of
from raycls.console.server import ServerError
from raycls.control_plane.body import file_of
from raycls.serving.prediction_id import HEADER

TOP = 5
SAMPLES = 8
LARGEST = 10 << 20  # bytes of a picture, as the server takes by default


async def show(request: Request) -> Response:
    """Show the page. Where the server asks for a token, its answer to a picture says so."""
    server, session = server_of(request), session_of(request)
    try:
        health = await server.call(session, "GET", "/health")
        model, rejection, problem = health["model"], health.get("rejection"), ""
    except ServerError as error:
        model, rejection, problem = None, None, error.detail
    return render(
        request,
        "try.html",
        model=model,
        rejection=rejection,
        problem=problem,
        server=server.url,
        may_say=bool(session and session.may("contribute")),
        may_see=bool(session and session.may("admin")),
    )


async def samples(request: Request) -> Response:
    """Answer the paths of some pictures of the test split, other ones each time."""
    server, session = server_of(request), session_of(request)
    name = (await server.call(session, "GET", "/datasets/served"))["name"]
    listed = (await server.call(session, "GET", "/datasets"))["datasets"]
    versions = [each for each in listed if each["name"] == name]
    if not versions:
        return JSONResponse({"pictures": []}, headers=HEADERS)
    newest = max(versions, key=lambda each: each["version"])
    count = newest["counts"].get("test", 0)
    pictures = f"/datasets/{quote(newest['name'], safe='')}/{newest['version']}/pictures/test"
    rows = random.sample(range(count), min(SAMPLES, count))
    return JSONResponse({"pictures": [f"{pictures}/{row}" for row in rows]}, headers=HEADERS)


async def predict(request: Request) -> Response:
    """Answer what the model says of the picture in the body."""
    explain = "true" if request.query_params.get("explain") == "true" else "false"
    async with file_of(request, LARGEST) as picture:
        answer = await server_of(request).answer(
            session_of(request),
            "POST",
            f"/predict?top_k={TOP}&explain={explain}",
            data=picture.read(),
            headers={"Content-Type": "application/octet-stream"},
        )
    found: dict[str, Any] = answer.json() | {"prediction_id": answer.headers.get(HEADER, "")}
    return JSONResponse(found, headers=HEADERS)


async def correct(request: Request) -> Response:
    """Tell the server what was right."""
    wanted = await json_of(request)
    said = await server_of(request).call(session_of(request), "POST", "/feedback", json=wanted)
    return JSONResponse({"state": said["state"]}, headers=HEADERS)


PAGES = [
    Page("GET", "/", None, show),
    Page("POST", "/try", None, predict),
    Page("GET", "/samples", "admin", samples),
    Page("POST", "/correct", "contribute", correct),
]
