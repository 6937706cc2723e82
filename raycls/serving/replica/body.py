"""The body of a request, read within a limit of bytes and of time.

    body = await read_body(request, limit=10 * 2**20, timeout_s=20, incoming=incoming)

Knows bytes and clients; nothing of images.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.requests import Request

from raycls.ray_patches import client_connection
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.replica.batching import ClientGone


class IncomingBodies:
    """The bodies that are arriving. Where they are too many or too large together, the oldest is ended.

    A fast sender finishes before it can be evicted. A slow sender loses its slot when others need it.
    """

    def __init__(self, count: int, size: int):
        self._count, self._free = count, size
        self._sizes: dict[asyncio.Timeout, int] = {}  # bytes of each so far, the oldest first

    def __contains__(self, body: asyncio.Timeout) -> bool:
        return body in self._sizes

    def begin(self, body: asyncio.Timeout) -> None:
        """Add a body, known by its timeout. The timeout ends early when the body has to make room."""
        while len(self._sizes) >= self._count:
            self._end_oldest()
        self._sizes[body] = 0

    def grow(self, body: asyncio.Timeout, size: int) -> None:
        if body not in self._sizes:  # it was ended, and hears of that at its next `await`
            return
        self._sizes[body] += size
        self._free -= size
        while self._free < 0 and body in self._sizes:
            self._end_oldest()

    def end(self, body: asyncio.Timeout) -> None:
        self._free += self._sizes.pop(body, 0)

    def _end_oldest(self) -> None:
        oldest = next(iter(self._sizes))
        self.end(oldest)
        with suppress(RuntimeError):  # it is ending already
            oldest.reschedule(0)


async def read_body(request: Request, limit: int, timeout_s: float, incoming: IncomingBodies) -> bytes:
    """Return the whole body. Refuse more than `limit` bytes by the declared length, or as soon as they have arrived.

    Raises HTTPProblem: 413 for a larger body, 408 for one that has not arrived after timeout_s or had to make room for
    others. Raises ClientGone when the connection closes before the end.
    """
    # `request.headers` would take several times as long.
    declared = next((value for name, value in request.scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    connection = client_connection.of(request.receive)
    if connection and connection.body_arrived():  # as most have: it needs neither a timer nor room
        return await _pieces(request, limit, lambda size: None)
    body = asyncio.timeout(timeout_s)
    incoming.begin(body)
    try:
        async with body:
            return await _pieces(request, limit, lambda size: incoming.grow(body, size))
    except TimeoutError:
        late = f"the body did not arrive within {timeout_s:g} s"
        if body not in incoming:
            late = "the body had not arrived when other requests needed its place"
        raise HTTPProblem(408, late, {"Connection": "close"}) from None
    finally:
        incoming.end(body)


async def _pieces(request: Request, limit: int, grown: Callable[[int], None]) -> bytes:
    """Return the body, joined. Call `grown` with the size of each piece. Raises HTTPProblem 413, ClientGone."""
    pieces, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
        grown(len(piece))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> HTTPProblem:
    return HTTPProblem(413, f"the body is larger than {limit:,} bytes")


def connected(request: Request) -> Callable[[], bool]:
    """Return a function that says whether the client is still connected; any thread may call it.

    Call it once the body is read. Where the connection is unknown (behind Ray's own proxy, or without the patch), the
    function always says yes: there Ray cancels the request of a client that leaves.
    """
    connection = client_connection.of(request.receive)
    if connection is None:
        return lambda: True
    connection.keep_reading()
    return lambda: not connection.disconnected()
