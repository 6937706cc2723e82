"""Routes about model versions: list, show where one comes from, compare two, promote, go back, and their history."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls import registry
from raycls.control_plane.body import document_of, wanted_int
from raycls.control_plane.route import ControlRoute
from raycls.control_plane.work import in_a_task
from raycls.registry import ModelVersion, history
from raycls.serving.control import rollout
from raycls.serving.replica.answer import busy, json_response

NEWEST, PAGE = 5, 50  # versions of each model, and of a page of one model
_comparing = asyncio.Lock()  # a comparison takes some seconds: one at a time


class Promotion(BaseModel):
    """What POST /models/NAME/promote takes. force: the reason for a promotion without the comparison."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(pattern="^[0-9]+$", max_length=18)
    force: str | None = Field(None, max_length=1000)
    new_classes: bool = False


class Rollback(BaseModel):
    """What POST /models/NAME/rollback takes; an empty body is allowed."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=1000)


async def list_models(request: Request) -> Response:
    """List the newest versions of each model, and those with an alias; or a page of all versions of one model."""
    name, page = request.query_params.get("name"), wanted_int(request.query_params, "page", 1)

    def found() -> tuple[list[ModelVersion], bool]:
        return registry.page_of(name, PAGE, page) if name else (registry.overview(NEWEST), False)

    versions, more = await run_in_threadpool(found)
    return json_response({"models": [_shown(version) for version in versions], "more": more})


async def show_history(request: Request) -> Response:
    """List the events, the latest first, and the version to which a rollback would go back."""
    name = request.path_params["name"]

    def found() -> dict[str, Any]:
        registry.newest(name)  # an unknown model is said
        events, champion = history.events(name), registry.champion(name)
        former = history.former_champions(events, champion.version if champion else None)
        return {"history": [event.as_json() for event in events], "former": former[0] if former else None}

    return json_response(await run_in_threadpool(found))


async def show(request: Request) -> Response:
    def found() -> dict[str, Any]:
        from raycls.tuning.lineage import trace

        version = registry.resolve("{name}/{version}".format(**request.path_params))
        return {
            **_shown(version),
            "lineage": [asdict(step) for step in trace(version)],
            "rejection": version.rejection and version.rejection.model_dump(),
            "engine": version.engine,
            "engine_timings": version.engine_timings,
        }

    return json_response(await run_in_threadpool(found))


async def compare(request: Request) -> Response:
    """Compare as a promotion does, and change nothing."""
    name, query = request.path_params["name"], request.query_params

    def versions() -> tuple[ModelVersion, ModelVersion]:
        challenger = registry.resolve(f"{name}/{query.get('challenger', '')}")
        return challenger, registry.resolve(f"{name}/{query['champion']}" if "champion" in query else name)

    if _comparing.locked():
        raise busy("another comparison is under way")
    async with _comparing:
        challenger, champion = await run_in_threadpool(versions)
        return json_response(await in_a_task(_compared, challenger, champion))


def _compared(challenger: ModelVersion, champion: ModelVersion) -> dict[str, Any]:
    from raycls.registry.disagreement import compare_in_detail  # imports PyTorch

    return compare_in_detail(challenger, champion).as_json()


async def promote(request: Request) -> Response:
    """Promote through the gate; the answer comes when the version is served."""
    wanted = await document_of(request, Promotion)
    promoted = await run_in_threadpool(
        rollout.promote,
        request.path_params["name"],
        wanted.version,
        new_classes=wanted.new_classes,
        force=wanted.force,
        by=request.state.by,
    )
    return json_response(_shown(promoted))


async def roll_back(request: Request) -> Response:
    wanted = await document_of(request, Rollback)
    restored = await run_in_threadpool(
        rollout.rollback, request.path_params["name"], reason=wanted.reason, by=request.state.by
    )
    return json_response(_shown(restored))


def _shown(version: ModelVersion) -> dict[str, object]:
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "metrics": version.metrics,
        "run_id": version.run_id,
        "dataset_fingerprint": version.fingerprint,
    }


ROUTES = [
    ControlRoute(
        "GET",
        "/models",
        "admin",
        list_models,
        "List the newest versions of each model, and those with an alias; or a page of one model's versions",
        queries={
            "name": "a model, for all of its versions",
            "page": "from 1; `more` says whether there is another",
        },
    ),
    ControlRoute(
        "GET",
        "/models/{name}/versions/{version}",
        "admin",
        show,
        "Show a version: where it comes from, step by step, and what each engine takes",
    ),
    ControlRoute(
        "GET",
        "/models/{name}/comparison",
        "admin",
        compare,
        "Compare two versions on the same pictures, and show where they differ",
        queries={
            "challenger": "number of a version",
            "champion": "number of a version; default: the champion",
        },
    ),
    ControlRoute(
        "GET",
        "/models/{name}/history",
        "admin",
        show_history,
        "List promotions, refusals and rollbacks, and name the version to which a rollback would go back",
    ),
    ControlRoute(
        "POST", "/models/{name}/promote", "admin", promote, "Promote a version through the gate", Promotion
    ),
    ControlRoute(
        "POST", "/models/{name}/rollback", "admin", roll_back, "Serve the former champion again", Rollback
    ),
]
