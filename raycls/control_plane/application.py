"""All routes of the control plane, and what holds for each of them.

    application(config, "127.0.0.1", hour=LastHour(), checks=…, work=…)     # any ASGI server runs it
    ROUTES                                                  # the table

Before a handler runs, the client's host, origin and role are checked. An error becomes a problem document (RFC 9457).
"""

from __future__ import annotations

import asyncio
import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from raycls.control_plane import (
    datasets,
    drift,
    experiments,
    feedback,
    live,
    model_files,
    models,
    openapi,
    parcels,
    retrain,
    runs,
    uploads,
    whoami,
)
from raycls.control_plane.parcels import Checks
from raycls.control_plane.route import ControlRoute, Handler
from raycls.control_plane.traffic import LastHour
from raycls.control_plane.work import Work
from raycls.errors import (
    ClusterError,
    DataError,
    RayclsError,
    RefusedError,
    RegistryError,
    UnknownDatasetError,
    UnknownModelError,
    UnknownRecordError,
    UploadError,
    UploadTooLargeError,
    UsageError,
)
from raycls.serving.access import Access
from raycls.serving.replica.answer import REQUEST_ID, HTTPProblem, failed, json_response
from raycls.serving.settings import ControlPlaneConfig
from raycls.serving.state import Follower

ROUTES: list[ControlRoute] = [
    *uploads.ROUTES,
    *parcels.ROUTES,
    *feedback.ROUTES,
    *retrain.ROUTES,
    *experiments.ROUTES,
    *models.ROUTES,
    *model_files.ROUTES,
    *drift.ROUTES,
    *live.ROUTES,
    *runs.ROUTES,
    *datasets.ROUTES,
    *whoami.ROUTES,
]
# Of the requests that this process answers at a time (max_ongoing_requests), so that an admin always finds a place.
MOST_CONTRIBUTORS = 16
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# The first class that an error is of decides its status. Others are 500: the library failed, and not the client.
STATUSES: tuple[tuple[type[RayclsError], int], ...] = (
    (UnknownModelError, 404),
    (UnknownDatasetError, 404),
    (UnknownRecordError, 404),
    (UsageError, 400),
    (UploadTooLargeError, 413),
    (UploadError, 400),
    (RefusedError, 409),
    (DataError, 503),
    (RegistryError, 503),
    (ClusterError, 503),
)

logger = logging.getLogger("ray.serve")


def application(
    config: ControlPlaneConfig, host: str | None, *, hour: LastHour, checks: Checks, work: Work
) -> Starlette:
    """Return the ASGI application. host: the address that the server listens on; None: it is not known. hour: what
    GET /live tells. checks: of /parcels. work: what makes reports, exports and checks of datasets.

    Raises DataError where the server's tokens cannot be read.
    """
    follower = Follower()
    access = Access(follower, host=host, allowed_hosts=config.allowed_hosts)
    by_path: dict[str, dict[str, ControlRoute]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, {})[route.method] = route
    described = openapi.document(ROUTES)

    async def describe(request: Request) -> Response:
        return json_response(described)

    places = asyncio.Semaphore(MOST_CONTRIBUTORS)
    guarded = [
        Route(path, _guarded(routes, access, places), methods=METHODS) for path, routes in by_path.items()
    ]
    app = Starlette(
        routes=[Route("/openapi.json", describe), *guarded],
        exception_handlers={HTTPException: _unknown},
    )
    app.state.config, app.state.hour, app.state.checks, app.state.work = config, hour, checks, work
    return app


def _guarded(routes: dict[str, ControlRoute], access: Access, places: asyncio.Semaphore) -> Handler:
    """Return the endpoint of a path. routes: by method. places: for the requests of contributors."""

    async def endpoint(request: Request) -> Response:
        try:
            access.check_host(request.headers)
            route = routes.get("GET" if request.method == "HEAD" else request.method)
            if route is None:
                allowed = ", ".join(sorted(routes))
                raise HTTPProblem(405, f"{request.url.path} takes {allowed}", {"Allow": allowed})
            if route.changes:
                access.check_origin(request.headers)
            await asyncio.to_thread(access.refresh)
            if route.role is None:
                request.state.by, request.state.roles = access.known(request.headers)
            else:
                request.state.by = access.check_role(request.headers, route.role)
            if route.role != "contribute":
                return await route.handler(request)
            if places.locked():
                raise HTTPProblem(429, "others send too much at this moment: try again", {"Retry-After": "1"})
            async with places:
                return await route.handler(request)
        except HTTPProblem as problem:
            return problem.response(request.headers)
        except RayclsError as error:
            status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
            if status == 500:
                logger.exception("raycls failed on request %s", request.headers.get(REQUEST_ID))
            return HTTPProblem(status, str(error)).response(request.headers)
        except Exception:
            logger.exception("raycls failed on request %s", request.headers.get(REQUEST_ID))
            return failed().response(request.headers)

    return endpoint


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # Starlette raises it where no route fits
    if error.status_code == 404:
        return HTTPProblem(
            404, f"there is no {request.url.path[:80]}: /control/openapi.json lists the routes"
        ).response(request.headers)
    return HTTPProblem(error.status_code, error.detail).response(request.headers)
