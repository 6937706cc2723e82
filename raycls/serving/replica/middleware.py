"""What stands before a replica's application: request headers that Ray would act upon, and too many of them.

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=raycls.serving.replica.middleware:middlewares   # raycls/cluster/environment.py sets it

Ray's replica takes orders from some headers, whoever sends them: not to notice that a client has left, or to end a
request at another time. In others, bytes that are not UTF-8 end in an error of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from raycls.ray_patches import joined_answer
from raycls.ray_patches.direct_predict import DirectPredict
from raycls.ray_patches.haproxy_rules import REFUSED
from raycls.serving.replica.request import HTTPProblem

MAX_HEADER_BYTES = 16 * 1024  # names and values of all headers
_ORDERS = (b"x-request-disconnect-disabled", b"x-request-timeout-seconds")
_REFUSED = REFUSED.encode()
REFUSED_BEFORE = "raycls.refused"  # in a request's scope: how many HAProxy has refused since the one before
# Ray would wait for each client's leaving in a task of its own, with another for the request and a queue between them:
# a tenth of a replica's CPU. The classifier looks whether the client is there, when it matters.
UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


class HeaderFilter:
    """Passes a request on without orders to Ray and without values that are not ASCII; 431 for too many headers.

    own: headers that it adds. behind_haproxy: what a header says that HAProxy alone may set goes into the scope.
    """

    def __init__(
        self, app: ASGIApp, own: Sequence[tuple[bytes, bytes]] = (), *, behind_haproxy: bool = False
    ):
        self._app, self._own, self._behind_haproxy = app, own, behind_haproxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
                problem = HTTPProblem(431, f"the headers are larger than {MAX_HEADER_BYTES:,} bytes")
                await problem.response()(scope, receive, send)
                return
            kept = []
            for name, value in scope["headers"]:
                if name == _REFUSED:
                    if self._behind_haproxy and value.isdigit() and len(value) < 10:
                        scope[REFUSED_BEFORE] = int(value)
                elif name not in _ORDERS and value.isascii():
                    kept.append((name, value))
            scope["headers"] = [*kept, *self._own]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For Ray, which asks for them in each of its proxies and replicas before it starts an HTTP server there."""
    try:
        serve.get_replica_context()
    except RayServeException:  # a proxy, whose connections a replica does not see
        return [Middleware(HeaderFilter)]
    joined_answer.install()
    # The last stands before the others.
    return [Middleware(DirectPredict), Middleware(HeaderFilter, own=[UNWATCHED], behind_haproxy=True)]
