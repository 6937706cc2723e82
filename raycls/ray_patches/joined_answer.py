"""A replica's answer leaves it in one piece: all of it, or nothing, where the replica is killed.

That holds for what fits into the kernel's buffer of a connection at once, as a prediction does.

uvicorn writes an answer's head, then its body, and uvloop hands each to the kernel at once. Between the two a replica
can be killed, and HAProxy, which has passed the head on by then, cannot ask another one. And each piece is a system
call of the replica's.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def install() -> None:
    """Let the HTTP servers that uvicorn starts in this process write so, but for those told which protocol to use."""
    HTTP_PROTOCOLS["auto"] = f"{JoinedAnswers.__module__}:{JoinedAnswers.__qualname__}"


class _JoiningTransport:
    """A transport that keeps what it is given until more comes, or the event loop's next turn; all else as before."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._held.append(data)
        if len(self._held) == 1:
            self._loop.call_soon(self._flush)
        else:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.writelines(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoinedAnswers(HttpToolsProtocol):
    """uvicorn's protocol over a transport that joins head and body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_JoiningTransport(transport, self.loop))  # type: ignore[arg-type]
