"""Routes about model versions."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls import registry
from raycls.control_plane.route import ControlRoute
from raycls.serving.replica.answer import json_response


async def list_models(request: Request) -> Response:
    versions = await run_in_threadpool(registry.list_models)
    return json_response(
        {
            "models": [
                {
                    "name": version.name,
                    "version": version.version,
                    "aliases": list(version.aliases),
                    "metrics": version.metrics,
                    "run_id": version.run_id,
                    "dataset_fingerprint": version.fingerprint,
                }
                for version in versions
            ]
        }
    )


ROUTES = [ControlRoute("GET", "/models", "admin", list_models, "List the versions of all models")]
