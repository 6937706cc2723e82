"""The HTTP API of the server, asked with the token of whoever is signed in.

    server = Server("http://127.0.0.1:8000")
    models = await server.call(session, "GET", "/models")       # raises ServerError

The same routes that raycls's commands use. What the server refuses, the console refuses with the server's words.
"""

from __future__ import annotations

from typing import Any

import requests
from starlette.concurrency import run_in_threadpool

from raycls import local_http
from raycls.console.session import Session
from raycls.ray_patches.haproxy_template import PREFIX

TIMEOUT_S, LONG_S = 30, 600  # LONG_S: a promotion waits for its replicas, an upload for its checks
OF_REPLICAS = ("/predict", "/health", "/metrics")  # the other routes are the control plane's, below /control


class ServerError(Exception):
    """What the server answered in place of what was asked for. status: of HTTP; 503 where no server answers."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status, self.detail = status, detail


class Server:
    """One server of raycls, by its URL."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self._session = local_http.session(self.url)

    async def call(self, session: Session | None, method: str, path: str, **options: Any) -> Any:
        """Return the JSON that a route answers. `options` are those of requests.request. Raises ServerError."""
        answer = await self.answer(session, method, path, **options)
        try:
            return answer.json()
        except ValueError:
            raise ServerError(502, f"{self.url} sent no JSON: is a raycls server there?") from None

    async def answer(
        self, session: Session | None, method: str, path: str, **options: Any
    ) -> requests.Response:
        """Return the answer of a route, which is none of an error. Raises ServerError."""
        return await run_in_threadpool(self.ask, session, method, path, **options)

    def ask(self, session: Session | None, method: str, path: str, **options: Any) -> requests.Response:
        """The same, in the calling thread."""
        headers = dict(options.pop("headers", {}))
        if session:
            headers["Authorization"] = f"Bearer {session.token}"
        prefix = "" if path.startswith(OF_REPLICAS) else PREFIX
        try:
            answer = self._session.request(
                method,
                self.url + prefix + path,
                headers=headers,
                timeout=options.pop("timeout", TIMEOUT_S),
                **options,
            )
        except requests.Timeout:
            raise ServerError(504, f"{self.url} takes too long to answer") from None
        except requests.RequestException as error:
            raise ServerError(503, f"no server answers at {self.url} ({type(error).__name__})") from None
        if answer.ok:
            return answer
        try:
            detail = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = answer.text[:300] or answer.reason
        raise ServerError(answer.status_code, detail)
