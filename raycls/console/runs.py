"""Trainings and studies: their curves while they run, their trials, and what they reached."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from raycls.console.chart import chart, front
from raycls.console.page import HEADERS, TEMPLATES, Page, go, page_of, part_of, render, server_of, session_of
from raycls.console.server import ServerError
from raycls.serving.replica.answer import HTTPProblem

CHARTS = (("train_loss", "val_loss"), ("train_accuracy", "val_accuracy"))
FIGURES = ("val_accuracy", "val_macro_f1", "val_loss", "test_accuracy", "epoch")
PERIOD_S = 2.0  # between two looks at a run
LONGEST_S = 3600.0  # of one stream of events; a browser then asks again


async def list_all(request: Request) -> Response:
    dataset, page = request.query_params.get("dataset", ""), page_of(request)
    path = f"/runs?page={page}" + (f"&dataset={quote(dataset)}" if dataset else "")
    server, session = server_of(request), session_of(request)
    found = await server.call(session, "GET", path)
    listed = (await server.call(session, "GET", "/datasets"))["datasets"]
    own = {found["dataset"]} if found["runs"] else set()
    names = sorted({each["name"] for each in listed} | own)
    return render(request, "runs.html", **found, names=names, page=page, figures=FIGURES)


async def show(request: Request) -> Response:
    run = await _run(request)
    return render(request, "run.html", run=run, live=await _live(request, run), figures=FIGURES)


async def show_study(request: Request) -> Response:
    """Lead from the name of a study to the page of its run."""
    found = await server_of(request).call(session_of(request), "GET", f"/studies/{part_of(request, 'name')}")
    return go(request, f"/runs/{quote(found['run_id'], safe='')}")


async def events(request: Request) -> Response:
    """Send what changes on the page of a run, as server-sent events, until it has ended."""
    first, streams = await _run(request), request.app.state.streams
    if streams.locked():
        raise HTTPProblem(429, "too many pages follow a training: close one")

    async def stream() -> AsyncIterator[str]:
        async with streams:
            async for event in drawn_again():
                yield event

    async def drawn_again() -> AsyncIterator[str]:
        run, sent = first, ""
        for _ in range(round(LONGEST_S / PERIOD_S)):
            try:
                drawn = json.dumps({"live": await _live(request, run), "status": run["status"]})
                yield f"data: {drawn}\n\n" if drawn != sent else ": still here\n\n"
                sent = drawn
                if run["status"] != "RUNNING":
                    return
                await asyncio.sleep(PERIOD_S)
                run = await _run(request)
            except ServerError as error:
                if error.status in (401, 403):  # the token was revoked
                    return
                await asyncio.sleep(PERIOD_S)

    return StreamingResponse(stream(), media_type="text/event-stream", headers=HEADERS)


async def _live(request: Request, run: dict[str, Any]) -> str:
    """Return the part of a run's page that changes while it runs: curves and what they say, or trials."""
    study = await _study(request, run) if run["kind"] == "study" else None
    pareto = ""
    if study:
        kinds = dict.fromkeys(study["front"], "front") | {study["winner"]: "chosen"}
        points = [
            (
                trial["latency_ms"],
                trial["score"],
                f"trial {trial['number']}",
                kinds.get(trial["number"], "trial"),
            )
            for trial in study["trials"]
            if trial["latency_ms"] is not None and trial["score"] is not None
        ]
        pareto = front(points, across="latency, ms", up="score")
    curves = "".join(chart(run["history"], names) for names in CHARTS)
    return TEMPLATES.get_template("run_live.html").render(run=run, study=study, curves=curves, pareto=pareto)


async def _study(request: Request, run: dict[str, Any]) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = await server_of(request).call(
            session_of(request), "GET", f"/studies/{quote(run['name'], safe='')}"
        )
    except ServerError as error:
        if error.status != 404:  # Optuna has it a moment later, or no more
            raise
        return None
    return found


async def _run(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = await server_of(request).call(
        session_of(request), "GET", f"/runs/{part_of(request, 'id')}"
    )
    return found


PAGES = [
    Page("GET", "/runs", "admin", list_all),
    Page("GET", "/runs/{id}", "admin", show),
    Page("GET", "/runs/{id}/events", "admin", events),
    Page("GET", "/studies/{name}", "admin", show_study),
]
