"""A prediction goes from a replica's HTTP server straight to the classifier, past what Ray wraps around a request.

    Middleware(DirectPredict)       # raycls/serving/replica/middleware.py puts it before Ray's own application

For each request stock Ray reads the headers for sessions, multiplexed models and traces, makes two ids and a context,
and follows what is sent: a third of a replica's event loop, for things that raycls does not use. The patch leaves these
out. It still tells Ray that a request is ongoing, which autoscaling, a replica's stop and `max_ongoing_requests` go by,
and how it ended, for Ray's own metrics. It tells Ray's two histograms of latencies nothing: Ray's agent on the node
replays their observations one after another, for 0.013 to 0.019 ms each. `raycls_request_seconds` has the latencies.

These requests go Ray's way: other paths, other deployments, more requests than `max_ongoing_requests`, and every
request that Ray is to log, to trace, or to end after `request_timeout_s`. A Ray Serve that hands a raw ASGI request to
a deployment would make the patch unnecessary.
"""

from __future__ import annotations

import logging
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from raycls.ray_patches.guard import Patch

PATCH = Patch(
    name="direct_predict",
    library="ray",
    version="2.60.0",
    buys="a third of a replica's event loop: 1,935 to 2,150 requests/s at 100 connections",
    targets={
        "ray/serve/_private/replica.py::Replica.__init__": "e94fd963648435e3",
        "ray/serve/_private/replica.py::Replica._handle_errors_and_metrics": "2f4a5d3b53bb1d38",
        "ray/serve/_private/replica.py::Replica._start_request": "22095ba55c9c623d",
        "ray/serve/_private/replica.py::ReplicaMetricsManager.__init__": "a3bcabde92976a9d",
        "ray/serve/_private/replica.py::ReplicaMetricsManager._add_ingress_metrics": "84662062858a340d",
        "ray/serve/_private/replica.py::UserCallableWrapper.__init__": "ac6c07a4e61b34b0",
        "ray/serve/_private/common.py::RequestMetadata": "cd74c5431b8146dd",
        "ray/serve/_private/http_util.py::RequestIdMiddleware": "c32889397957441b",
        "ray/serve/_private/tracing_utils.py::is_tracing_enabled": "c9ea8309e8daa312",
    },
)
ENDS = (
    "/predict",
    "/infer",
)  # of the paths that take images, with /models/NAME or /v2/models/NAME before them
REQUEST_ID = b"x-request-id"


class DirectPredict:
    """`app` is what Ray hands to a replica's first middleware: RequestIdMiddleware, around a method of its Replica.

    The direct way is open where the deployment's class has `takes_requests`: its instance, called with a Request,
    returns a Response. Make one only where PATCH is usable.
    """

    def __init__(self, app: ASGIApp):
        from ray.serve._private.common import RequestMetadata, RequestProtocol
        from ray.serve._private.tracing_utils import is_tracing_enabled

        self._app = app
        self._replica: Any = app._app.__self__  # type: ignore[attr-defined]
        user = self._replica._user_callable_wrapper
        self._classifier = user.user_callable
        self._counted, self._ongoing = self._replica._handle_errors_and_metrics, self._replica._start_request
        self._is_full = self._replica._semaphore.locked
        self._is_logged = logging.getLogger("ray.serve").isEnabledFor
        # Ray's metrics tell requests apart by these fields alone, so one object serves all requests.
        self._metadata = RequestMetadata(
            request_id="",
            internal_request_id="",
            route=self._replica._route_prefix or "/",
            app_name=self._replica._deployment_id.app_name,
            is_direct_ingress=True,
            _http_method="POST",
            _request_protocol=RequestProtocol.HTTP,
        )
        self._open = (
            getattr(self._classifier, "takes_requests", False)
            and not user._run_user_code_in_separate_thread
            and not is_tracing_enabled()
            and self._replica._http_options.request_timeout_s is None
        )
        if self._open:
            metrics = self._replica._metrics_manager
            ingress = [of.processing_latency_tracker for of in metrics._ingress_metrics.values()]
            for histogram in (metrics._processing_latency_tracker, *ingress):
                histogram.observe = _ignore

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._goes_direct(scope):
            await self._app(scope, receive, send)
            return
        with self._counted(self._metadata) as set_status:
            async with self._ongoing(self._metadata):
                response = await self._classifier(Request(scope, receive))
                set_status(str(response.status_code))
                # Ray returns a request's id too. HAProxy has made one where the client sent none.
                response.raw_headers += [header for header in scope["headers"] if header[0] == REQUEST_ID]
                await response(scope, receive, send)

    def _goes_direct(self, scope: Scope) -> bool:
        """Return whether this request takes the direct way. Ray may change log level and prefix while it runs."""
        return (
            self._open
            and scope["type"] == "http"
            and scope["path"].endswith(ENDS)
            and scope["method"] == "POST"
            and self._replica._route_prefix == self._metadata.route
            and not self._is_full()
            and not self._is_logged(logging.INFO)
        )


def _ignore(value: float, tags: dict[str, str] | None = None) -> None:
    """Take the place of a histogram's `observe`."""
