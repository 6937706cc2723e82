"""Versions of models: what they reached, where they come from, which one is served, and its change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from raycls.console.page import HEADERS, Page, fields_of, go, page_of, part_of, render, server_of, session_of
from raycls.console.server import LONG_S, ServerError
from raycls.metrics import told_calibration

REFUSED_S, SUCCEEDED_S = 600.0, 60.0  # how long a page tells how a promotion ended
# What can be taken away, and for whom.
FILES = {
    "report": "a page about its mistakes",
    "onnx": "for ONNX Runtime and most other programs",
    "torch-export": "for PyTorch without raycls",
    "torchscript": "for PyTorch's older format, in C++ too",
}
FILE_HEADERS, PIECE = ("Content-Disposition", "Content-Length"), 1 << 18  # PIECE: bytes
FIGURES = ("test_accuracy", "val_accuracy", "val_macro_f1", "val_loss", "test_calibration_error")


async def list_all(request: Request) -> Response:
    found = (await server_of(request).call(session_of(request), "GET", "/models"))["models"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for version in sorted(found, key=lambda version: int(version["version"]), reverse=True):
        by_name.setdefault(version["name"], []).append(version)
    return render(request, "models.html", models=by_name, figures=FIGURES)


async def show(request: Request) -> Response:
    """Show a page of a model's versions, and its history."""
    name, server, session = request.path_params["name"], server_of(request), session_of(request)
    page = page_of(request)
    query = urlencode({"name": name, "page": page})
    found = await server.call(session, "GET", f"/models?{query}")
    versions = found["models"]
    past = await server.call(session, "GET", f"{_path(request)}/history")
    return render(
        request,
        "model.html",
        name=name,
        versions=versions,
        others=[each["version"] for each in versions if "champion" not in each["aliases"]],
        page=page,
        more=found["more"],
        figures=FIGURES,
        history=past["history"],
        former=past["former"],
        running=_running(request).get(name, ""),
        ended=_ended(request, name),
    )


async def show_version(request: Request) -> Response:
    """Show where a version comes from, and what each engine takes for it."""
    server, session, path = server_of(request), session_of(request), _version_path(request)
    found = await server.call(session, "GET", path)
    files = (await server.call(session, "GET", f"{path}/files"))["files"]
    listed = (await server.call(session, "GET", f"/models?{urlencode({'name': found['name']})}"))["models"]
    others = [each["version"] for each in listed if each["version"] != found["version"]]
    return render(
        request,
        "version.html",
        version=found,
        figures=FIGURES,
        others=others,
        calibration=told_calibration(found["metrics"], "test"),
        rejection=found.get("rejection"),
        link=_link,
        files=files,
        told=FILES,
    )


async def make_file(request: Request) -> Response:
    path = _version_path(request)
    await server_of(request).call(session_of(request), "POST", f"{path}/files/{part_of(request, 'kind')}")
    return go(request, path)


async def send_file(request: Request) -> Response:
    """Pass a file on as it comes: it may be larger than the memory for it."""
    path = f"{_version_path(request)}/files/{part_of(request, 'kind')}"
    answer = await server_of(request).answer(
        session_of(request), "GET", path, stream=True, timeout=LONG_S, headers={"Accept-Encoding": "identity"}
    )
    headers = {name: answer.headers[name] for name in FILE_HEADERS if name in answer.headers}

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in iterate_in_threadpool(answer.iter_content(PIECE)):
                yield piece
        finally:  # also where the browser has left
            answer.close()

    return StreamingResponse(pieces(), media_type="application/octet-stream", headers={**HEADERS, **headers})


def _link(name: str, value: str) -> str:
    """Return the path of the console's page about a step of the lineage; empty where there is none."""
    if name in ("run", "study"):
        return f"/{'runs' if name == 'run' else 'studies'}/{quote(value, safe='')}"
    dataset, _, version = value.partition(",")[0].rpartition("@")
    return f"/datasets/{quote(dataset, safe='')}/{version}" if name == "dataset" and version.isdigit() else ""


def _path(request: Request) -> str:
    return f"/models/{part_of(request, 'name')}"


def _version_path(request: Request) -> str:
    return f"{_path(request)}/versions/{part_of(request, 'version')}"


async def promote(request: Request) -> Response:
    form = await fields_of(request)
    version = form.get("version", "")
    force = form.get("force", "").strip()
    wanted = {"version": version} | ({"force": force} if force else {})
    return _begin(request, f"promotes version {version}", "promote", wanted)


async def roll_back(request: Request) -> Response:
    form = await fields_of(request)
    return _begin(request, "goes back to the former champion", "rollback", {"reason": form.get("reason", "")})


def _begin(request: Request, what: str, action: str, wanted: dict[str, Any]) -> Response:
    """Ask the server, which answers when the version is served, without letting the person wait for it."""
    name, server, session, running = (
        request.path_params["name"],
        server_of(request),
        session_of(request),
        _running(request),
    )
    if name in running:
        return go(
            request,
            _path(request),
            f"the server {running[name]}: wait for that",
            bad=True,
        )
    running[name] = what

    async def work() -> None:
        try:
            found = await server.call(
                session, "POST", f"{_path(request)}/{action}", json=wanted, timeout=LONG_S
            )
            said = f"{found['name']}/{found['version']} is the champion now"
            request.app.state.ended[name] = (time.monotonic(), said, False)
        except ServerError as error:
            request.app.state.ended[name] = (time.monotonic(), error.detail, True)
        finally:
            del running[name]

    tasks = request.app.state.tasks
    task = asyncio.create_task(work())
    tasks.add(task)  # a task that nobody holds may be collected
    task.add_done_callback(tasks.discard)
    request.app.state.ended.pop(name, None)
    return go(request, _path(request))


def _ended(request: Request, name: str) -> tuple[str, bool]:
    """Return how the last promotion or rollback ended, and whether badly, for a while; empty text after that."""
    since, said, bad = request.app.state.ended.get(name, (0.0, "", False))
    kept = REFUSED_S if bad else SUCCEEDED_S
    return (said if time.monotonic() - since < kept else ""), bad


def _running(request: Request) -> dict[str, str]:
    """Return what the server does now, by the name of the model."""
    found: dict[str, str] = request.app.state.running
    return found


PAGES = [
    Page("GET", "/models", "admin", list_all),
    Page("GET", "/models/{name}", "admin", show),
    Page("GET", "/models/{name}/versions/{version}", "admin", show_version),
    Page("POST", "/models/{name}/versions/{version}/files/{kind}", "admin", make_file),
    Page("GET", "/models/{name}/versions/{version}/files/{kind}", "admin", send_file),
    Page("POST", "/models/{name}/promote", "admin", promote),
    Page("POST", "/models/{name}/rollback", "admin", roll_back),
]
