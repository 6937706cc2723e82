"""A prediction's way inside a replica: from its HTTP server to its classifier, past what Ray wraps around a request.

    Middleware(DirectPredict)       # raycls/serving/replica/middleware.py has each replica put it before Ray's own application

Of each request Ray reads the headers for sessions, multiplexed models and traces, makes two ids and a context, and
follows what is sent: a third of a replica's event loop, for what raycls does not use. What Ray is to know it is told as
before: that a request is ongoing, for autoscaling, for a replica that is to stop, and for `max_ongoing_requests`; and
how it ended, for Ray's own metrics, but for its two histograms of latencies. Ray's agent on the node replays what is in
those, one request after another, for 0.013 to 0.019 ms each. What requests take is in raycls's own metrics.

All else goes Ray's way: other paths and other deployments, requests that are more than `max_ongoing_requests`, and
every one where Ray is to log it, to trace it, or to end it after `request_timeout_s`. Uses names of Ray's that are not
public: its version is pinned, and where one is missing, a replica says so and does not start.
"""

from __future__ import annotations

import logging
from typing import Any

from ray.serve._private.common import RequestMetadata, RequestProtocol
from ray.serve._private.tracing_utils import is_tracing_enabled
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/predict"
REQUEST_ID = b"x-request-id"


class DirectPredict:
    """app is what Ray hands to a replica's first middleware: its RequestIdMiddleware, around a method of its Replica.

    The short way is open where the deployment's class has `takes_requests`: called with a Request, it returns a
    Response.
    """

    def __init__(self, app: ASGIApp):
        self._app = app
        self._replica: Any = app._app.__self__  # type: ignore[attr-defined]
        user = self._replica._user_callable_wrapper
        self._classifier = user.user_callable
        self._counted, self._ongoing = self._replica._handle_errors_and_metrics, self._replica._start_request
        self._full, self._logged = (
            self._replica._semaphore.locked,
            logging.getLogger("ray.serve").isEnabledFor,
        )
        # Ray's metrics tell requests apart by these alone.
        self._like_all = RequestMetadata(
            request_id="",
            internal_request_id="",
            route="/",
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
                histogram.observe = _untold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._for(scope):
            await self._app(scope, receive, send)
            return
        with self._counted(self._like_all) as answered:
            async with self._ongoing(self._like_all):
                response = await self._classifier(Request(scope, receive))
                answered(str(response.status_code))
                # As Ray does, by which an answer is known again; but of those alone who asked for it.
                response.raw_headers += [header for header in scope["headers"] if header[0] == REQUEST_ID]
                await response(scope, receive, send)

    def _for(self, scope: Scope) -> bool:
        """Whether this request goes the short way. Ray changes log level and route prefix of a running replica."""
        return (
            self._open
            and scope["type"] == "http"
            and scope["path"] == PATH
            and scope["method"] == "POST"
            and self._replica._route_prefix == "/"
            and not self._full()
            and not self._logged(logging.INFO)
        )


def _untold(value: float, tags: dict[str, str] | None = None) -> None:
    """In place of a histogram's `observe`."""
