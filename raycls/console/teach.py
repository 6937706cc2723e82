"""New pictures: sending them, reviewing them, and the retraining that learns from them."""

from __future__ import annotations

import io
from urllib.parse import quote

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from raycls.console.page import HEADERS, Page, fields_of, go, json_of, part_of, render, server_of, session_of
from raycls.console.server import LONG_S, ServerError
from raycls.control_plane.body import file_of
from raycls.serving.replica.answer import HTTPProblem

SIDE = 320  # pixels of a shown picture
PIECE = 8 << 20  # bytes, as the server takes
CORRECTIONS = 100  # on the page; those that are decided make room
KEPT = 10  # retrainings that the page shows


async def show(request: Request) -> Response:
    """Show the queue to an admin; a contributor may only send."""
    server, session = server_of(request), session_of(request)
    assert session is not None
    if not session.may("admin"):
        return render(request, "teach.html", queue=None, model="", retrainings=[], corrections=None)
    queue = await server.call(session, "GET", "/uploads?state=waiting")
    health = await server.call(session, "GET", "/health")
    retrainings = (await server.call(session, "GET", "/retrain"))["retrainings"][:KEPT]
    return render(
        request,
        "teach.html",
        queue=queue,
        model=health["model"]["name"],
        retrainings=retrainings,
        corrections=await server.call(session, "GET", "/feedback"),
        shown=CORRECTIONS,
    )


async def upload(request: Request) -> Response:
    """Pass a form with pictures on to the server."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise HTTPProblem(415, "send pictures as a form")
    async with file_of(request, request.app.state.config.max_upload_bytes) as body:
        answer = await server_of(request).call(
            session_of(request),
            "POST",
            "/upload_training_data",
            data=body,
            headers={"Content-Type": kind},
            timeout=LONG_S,
        )
    return JSONResponse(answer, headers=HEADERS)


async def begin_parcel(request: Request) -> Response:
    """Begin a zip that is sent in pieces."""
    wanted = await json_of(request)
    found = await server_of(request).call(session_of(request), "POST", "/parcels", json=wanted)
    return JSONResponse(found, headers=HEADERS)


async def send_piece(request: Request) -> Response:
    """Pass a piece of a zip on to the server."""
    path = f"{_parcel(request)}?at={quote(request.query_params.get('at', ''))}"
    async with file_of(request, PIECE) as body:
        found = await server_of(request).call(session_of(request), "PUT", path, data=body, timeout=LONG_S)
    return JSONResponse(found, headers=HEADERS)


async def show_parcel(request: Request) -> Response:
    """Answer how much of a zip is here, and how far its check is."""
    found = await server_of(request).call(session_of(request), "GET", _parcel(request))
    return JSONResponse(found, headers=HEADERS)


def _parcel(request: Request) -> str:
    return f"/parcels/{part_of(request, 'id')}"


async def picture(request: Request) -> Response:
    """Return a waiting picture, small and encoded anew, so that a browser gets nothing that a stranger has made."""
    answer = await server_of(request).answer(
        session_of(request), "GET", f"/uploads/{part_of(request, 'sha256')}/picture"
    )
    data = await run_in_threadpool(_small, answer.content)
    return Response(
        data, media_type="image/png", headers={**HEADERS, "Cache-Control": "private, max-age=3600"}
    )


def _small(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (SIDE, SIDE))
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


async def review(request: Request) -> Response:
    wanted = await json_of(request)
    found = await server_of(request).call(session_of(request), "POST", "/uploads/review", json=wanted)
    return JSONResponse(found, headers=HEADERS)


async def judge(request: Request) -> Response:
    """Accept or reject what people said was right for an answer."""
    form = await fields_of(request)
    wanted = {"request_ids": form.get("request_ids", "").split(), "decision": form.get("decision", "")}
    try:
        found = await server_of(request).call(session_of(request), "POST", "/feedback/review", json=wanted)
    except ServerError as error:
        return go(request, "/teach#corrections", error.detail, bad=True)
    said = f"{wanted['decision']}: {len(found['feedback'])} of the corrections"
    return go(request, "/teach#corrections", said)


async def retrain(request: Request) -> Response:
    form = await fields_of(request)
    wanted = {name: form.get(name, "") for name in ("model", "then", "preset")}
    try:
        await server_of(request).call(session_of(request), "POST", "/retrain", json=wanted)
    except ServerError as error:
        return go(request, "/teach", error.detail, bad=True)
    return go(request, "/teach#retraining", f"the retraining of {wanted['model']} has begun")


async def stop(request: Request) -> Response:
    try:
        await server_of(request).call(session_of(request), "DELETE", f"/retrain/{part_of(request, 'id')}")
    except ServerError as error:
        return go(request, "/teach", error.detail, bad=True)
    return go(request, "/teach#retraining", "the retraining was stopped")


async def progress(request: Request) -> Response:
    """Answer how far a retraining is, for the page that watches it."""
    found = await server_of(request).call(session_of(request), "GET", f"/retrain/{part_of(request, 'id')}")
    return JSONResponse(found, headers=HEADERS)


PAGES = [
    Page("GET", "/teach", "contribute", show),
    Page("POST", "/upload", "contribute", upload),
    Page("POST", "/parcels", "contribute", begin_parcel),
    Page("POST", "/parcels/{id}", "contribute", send_piece),
    Page("GET", "/parcels/{id}", "contribute", show_parcel),
    Page("GET", "/uploads/{sha256}", "admin", picture),
    Page("POST", "/review", "admin", review),
    Page("POST", "/corrections", "admin", judge),
    Page("POST", "/retrain", "admin", retrain),
    Page("POST", "/retrain/{id}/stop", "admin", stop),
    Page("GET", "/retrain/{id}", "admin", progress),
]
