"""Routes about experiments on live traffic."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls.control_plane import served
from raycls.control_plane.body import document_of
from raycls.control_plane.route import ControlRoute
from raycls.lifecycle import experiment
from raycls.lifecycle.live_accuracy import judged
from raycls.serving.replica.answer import json_response
from raycls.serving.state import Mode


class Start(BaseModel):
    """What POST /experiments takes."""

    model_config = ConfigDict(extra="forbid")

    challenger: str = Field(description="NAME/VERSION, or NAME@ALIAS")
    mode: Mode
    share: float = Field(gt=0, le=1, description="of the requests")


class Change(BaseModel):
    """What PATCH /experiments takes."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(gt=0, le=1)


class Stop(BaseModel):
    """What DELETE /experiments takes; an empty body is allowed."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=1000)


async def list_all(request: Request) -> Response:
    records = await run_in_threadpool(experiment.records)
    return json_response({"experiments": [record.as_json() for record in records]})


async def show(request: Request) -> Response:
    def found() -> dict[str, Any]:
        record = experiment.EXPERIMENTS.load(request.path_params["id"])
        return record.as_json() | {"accuracy": judged(record).as_json()}

    return json_response(await run_in_threadpool(found))


async def start(request: Request) -> Response:
    wanted = await document_of(request, Start)
    try:
        champion = await served.version(wanted.challenger.partition("/")[0].partition("@")[0])
    except served.NotServedError:
        champion = await served.version()  # the refusal names both
    started = await run_in_threadpool(
        experiment.start,
        wanted.challenger,
        champion=champion,
        mode=wanted.mode,
        share=wanted.share,
        by=request.state.by,
    )
    return json_response(experiment.Record(experiment=started).as_json())


async def change(request: Request) -> Response:
    wanted = await document_of(request, Change)
    changed = await run_in_threadpool(experiment.change_share, wanted.share, by=request.state.by)
    return json_response(changed.model_dump())


async def stop(request: Request) -> Response:
    wanted = await document_of(request, Stop)
    record = await run_in_threadpool(experiment.stop, wanted.reason or "ended by hand", by=request.state.by)
    return json_response(record.as_json())


ROUTES = [
    ControlRoute("GET", "/experiments", "admin", list_all, "List the experiments, the newest first"),
    ControlRoute("GET", "/experiments/{id}", "admin", show, "Show one experiment"),
    ControlRoute("POST", "/experiments", "admin", start, "Let a challenger see live traffic", Start),
    ControlRoute("PATCH", "/experiments", "admin", change, "Change the running experiment's share", Change),
    ControlRoute("DELETE", "/experiments", "admin", stop, "End the running experiment", Stop),
]
