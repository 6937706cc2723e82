"""What a request passes before Ray: a filter of its headers, and the direct way to the classifier.

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=raycls.serving.replica.middleware:middlewares

raycls/cluster/environment.py sets the variable. Ray's replica obeys some request headers, whoever sends them: not to
notice that a client has left, or to end a request at another time. In other headers, bytes that are not UTF-8 make Ray
fail.
"""

from __future__ import annotations

import os

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from raycls.ray_patches import direct_predict, joined_answer
from raycls.ray_patches.guard import usable
from raycls.ray_patches.haproxy_rules import REFUSED_VARIABLE
from raycls.serving.replica.answer import HTTPProblem

MAX_HEADER_BYTES = 16 * 1024  # names and values of all headers
RAYS_ORDERS = (b"x-request-disconnect-disabled", b"x-request-timeout-seconds")
REFUSED_BEFORE = (
    "raycls.refused"  # in a request's scope: how many requests HAProxy has refused since the last one
)


class HeaderFilter:
    """Removes orders to Ray and values that are not ASCII from a request's headers; answers 431 for too many bytes.

    refused: the header with which HAProxy says how many it has refused; it is moved into the scope, as a number.
    """

    def __init__(self, app: ASGIApp, *, refused: str = ""):
        self._app, self._refused = app, refused.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
                problem = HTTPProblem(431, f"the headers are larger than {MAX_HEADER_BYTES:,} bytes")
                await problem.response(Headers(scope=scope))(scope, receive, send)
                return
            kept = []
            for name, value in scope["headers"]:
                if name == self._refused:
                    if value.isdigit() and len(value) < 10:
                        scope[REFUSED_BEFORE] = int(value)
                elif name not in RAYS_ORDERS and value.isascii():
                    kept.append((name, value))
            scope["headers"] = kept
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return what Ray puts before its own application. Ray asks in each proxy and replica before it listens."""
    try:
        serve.get_replica_context()
    except RayServeException:  # this process is a proxy
        return [Middleware(HeaderFilter)]
    joined_answer.install()
    header_filter = Middleware(HeaderFilter, refused=os.environ.get(REFUSED_VARIABLE, ""))
    # The last one stands before the others.
    return (
        [Middleware(direct_predict.DirectPredict), header_filter]
        if usable(direct_predict.PATCH)
        else [header_filter]
    )
