"""Headers before they reach Ray's replica."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from raycls.serving.replica.middleware import (
    MAX_HEADER_BYTES,
    REFUSED_BEFORE,
    HeaderFilter,
    middlewares,
)

Headers = list[tuple[bytes, bytes]]


def passed(headers: Headers) -> tuple[Headers | None, list[Message]]:
    """The headers that the application was given, or None, and what was sent in its place."""
    seen: list[Headers] = []
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["headers"])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    (middleware,) = middlewares()
    app = middleware.cls(application, *middleware.args, **middleware.kwargs)
    asyncio.run(app({"type": "http", "headers": headers}, receive, send))  # type: ignore[arg-type]
    return (seen[0] if seen else None), sent


@pytest.mark.parametrize(
    "order",
    [
        (b"x-request-disconnect-disabled", b"?1"),
        (b"x-request-timeout-seconds", b"0.001"),
        (b"x-request-timeout-seconds", b"\xff"),
        (b"x-request-id", b"\xff"),
        (b"x-session-id", b"\xff"),
        (b"serve_multiplexed_model_id", b"\xff"),
    ],
)
def test_no_client_gives_ray_orders(order: tuple[bytes, bytes]) -> None:
    usual = [(b"host", b"x"), (b"content-type", b"image/png")]
    assert passed([*usual, order]) == (usual, [])


@pytest.mark.parametrize(
    ("value", "told"), [(b"12", 12), (b"1" * 400, None), (b"-1", None), (b"\xb2", None), (b"", None)]
)
def test_how_many_were_refused_is_what_haproxy_says(value: bytes, told: int | None) -> None:
    seen: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    for refused in ("x-refused-0f3a", ""):  # behind HAProxy, and not
        app = HeaderFilter(application, refused=refused)
        asyncio.run(app({"type": "http", "headers": [(b"x-refused-0f3a", value)]}, None, None))  # type: ignore[arg-type]
    behind, other = seen
    assert behind.get(REFUSED_BEFORE) == told
    assert behind["headers"] == []
    assert other.get(REFUSED_BEFORE) is None


def test_an_id_of_the_clients_own_stays() -> None:
    named = [(b"x-request-id", b"abc-1")]
    assert passed(named) == (named, [])


def test_too_many_headers_get_a_problem_document() -> None:
    flood = [(b"x-%d" % i, bytes(1000)) for i in range(MAX_HEADER_BYTES // 1000 + 1)]
    seen, (start, body) = passed(flood)
    assert seen is None
    assert start["status"] == json.loads(body["body"])["status"] == 431
    assert (b"content-type", b"application/problem+json") in start["headers"]
