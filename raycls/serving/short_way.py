"""A prediction's way inside a replica: from its HTTP server to its classifier, past what Ray wraps around a request.

    Middleware(ShortWay)       # raycls/serving/ingress.py has each replica put it before Ray's own application

Of each request Ray reads the headers for sessions, multiplexed models and traces, makes two ids and a context, and
follows what is sent: a third of a replica's event loop, for what raycls does not use. What Ray is to know it is told as
before: that a request is ongoing, for autoscaling, for a replica that is to stop, and for `max_ongoing_requests`; and
how it ended, for Ray's own metrics.

Ray's own way take all other paths, requests that are more than `max_ongoing_requests`, and all of them where Ray is to
log each, to trace it, or to end it after `request_timeout_s`. Uses names of Ray's that are not public: its version is
pinned, and a Ray made otherwise fails loudly when a replica starts.
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


class ShortWay:
    """`app` is Ray's, as it hands it to a replica's first middleware."""

    def __init__(self, app: ASGIApp):
        self._app = app
        replica: Any = app._app.__self__  # type: ignore[attr-defined]
        self._classifier = replica._user_callable_wrapper.user_callable
        self._full = replica._semaphore.locked
        self._counted, self._ongoing = replica._handle_errors_and_metrics, replica._start_request
        # Ray's metrics tell requests apart by these alone.
        self._like_all = RequestMetadata(
            request_id="",
            internal_request_id="",
            route=replica._route_prefix,
            app_name=replica._deployment_id.app_name,
            is_direct_ingress=True,
            _http_method="POST",
            _request_protocol=RequestProtocol.HTTP,
        )
        self._closed = (
            logging.getLogger("ray.serve").isEnabledFor(logging.INFO)
            or is_tracing_enabled()
            or replica._http_options.request_timeout_s is not None
            or replica._user_callable_wrapper._run_user_code_in_separate_thread
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._closed or scope["path"] != PATH or scope.get("method") != "POST" or self._full():
            await self._app(scope, receive, send)
            return
        with self._counted(self._like_all) as answered:
            async with self._ongoing(self._like_all):
                response = await self._classifier(Request(scope, receive))
                answered(str(response.status_code))
                # As Ray does, by which an answer is known again; but of those alone who asked for it.
                response.raw_headers += [header for header in scope["headers"] if header[0] == REQUEST_ID]
                await response(scope, receive, send)
