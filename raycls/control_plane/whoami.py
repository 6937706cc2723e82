"""The route that says whose token a request carries: the console signs people in with it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from raycls.control_plane.route import ControlRoute
from raycls.serving.replica.answer import json_response


async def show(request: Request) -> Response:
    return json_response({"name": request.state.by, "roles": request.state.roles})


ROUTES = [ControlRoute("GET", "/whoami", None, show, "Say whose token this is, and its roles")]
