"""Routes about retraining."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls.control_plane.body import document_of
from raycls.control_plane.route import ControlRoute
from raycls.lifecycle import retraining
from raycls.lifecycle.retraining import Wanted
from raycls.lifecycle.retraining_progress import progress_of
from raycls.serving.replica.answer import HTTPProblem, json_response

KEY = "Idempotency-Key"
LONGEST_KEY = 200


async def list_all(request: Request) -> Response:
    records = await run_in_threadpool(retraining.records)
    return json_response({"retrainings": [record.model_dump() for record in records]})


async def show(request: Request) -> Response:
    def found() -> dict[str, Any]:
        record = retraining.RETRAININGS.load(request.path_params["id"])
        return record.model_dump() | {"progress": progress_of(record)}

    return json_response(await run_in_threadpool(found))


async def start(request: Request) -> Response:
    """Begin a retraining. The control plane's loop submits its Ray job (raycls/control_plane/retrain_watch.py)."""
    wanted = await document_of(request, Wanted)
    key = request.headers.get(KEY, "")
    if len(key) > LONGEST_KEY:
        raise HTTPProblem(400, f"{KEY} has more than {LONGEST_KEY} characters")
    await run_in_threadpool(retraining.check, wanted)
    record = await run_in_threadpool(retraining.begin, wanted, by=request.state.by, key=key)
    return json_response(record.model_dump())


async def stop(request: Request) -> Response:
    """End a retraining. The control plane's loop stops its Ray job."""
    record = await run_in_threadpool(retraining.stop, request.path_params["id"], by=request.state.by)
    return json_response(record.model_dump())


ROUTES = [
    ControlRoute("GET", "/retrain", "admin", list_all, "List the retrainings, the newest first"),
    ControlRoute(
        "GET", "/retrain/{id}", "admin", show, "Show one retraining: state, step, progress, figures, decision"
    ),
    ControlRoute(
        "POST",
        "/retrain",
        "admin",
        start,
        "Retrain a model",
        Wanted,
        headers={KEY: "the same key gives one retraining, however often it is sent"},
    ),
    ControlRoute("DELETE", "/retrain/{id}", "admin", stop, "End a retraining that is not done"),
]
