"""One HTTP/1.1 connection of the load generator: it sends a request, waits for the answer, sends the next request.

    connection = await Connection.open("http://127.0.0.1:8000/predict")
    answer = await connection.ask(post("http://127.0.0.1:8000/predict", image.body, "image/png", {}))
    answer.status, answer.body, answer.at

The load generator shares the cores with the server, so a request must cost little CPU time. A general client such as
aiohttp needs up to twice as much. Here the bytes of a request are built once and written in one piece, and httptools
(uvicorn's parser) reads the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools


class AnswerError(Exception):
    """The server sent bytes that are not an HTTP/1.1 answer."""


class Answer(NamedTuple):
    """at: the time (time.perf_counter) at which the last byte was read."""

    status: int
    body: bytes
    at: float
    retry_after: bool = False  # whether the answer has a Retry-After header


def post(url: str, body: bytes, content_type: str, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a POST request."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {"Host": parts.netloc, "Content-Type": content_type, "Content-Length": len(body), **headers}
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Connection(asyncio.Protocol):
    """A keep-alive connection, usable until the server closes it."""

    _transport: asyncio.Transport
    _free = False
    _answer: asyncio.Future[Answer] | None = None

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._begun = False  # the head of an answer has been read
        self._framed = False  # that head says where the body ends
        self._retry_after = False

    @property
    def usable(self) -> bool:
        """Whether another request can be sent: no request is running, and the server has not closed the connection."""
        return self._free and not self._transport.is_closing()

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Connect to the host of `url`. Raises OSError when nothing listens there."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        loop = asyncio.get_running_loop()
        port = parts.port or (443 if tls else 80)
        _, connection = await loop.create_connection(cls, parts.hostname or "", port, ssl=tls or None)
        return connection

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request and return a future of its answer.

        The future fails with OSError if the connection ends first, and with AnswerError if the answer is not HTTP.
        """
        self._free = False
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def abort(self) -> None:
        self._free = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._free = transport, True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(AnswerError(str(error)))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._free = False
        if exc is None and self._begun and not self._framed:
            self.on_message_complete()
        self._fail(exc or ConnectionResetError("closed without an answer"))

    def _fail(self, error: Exception) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)

    # The parser calls these methods.

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._framed |= name in (b"content-length", b"transfer-encoding")
        self._retry_after |= name == b"retry-after"

    def on_headers_complete(self) -> None:
        self._begun = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._begun:  # an interim answer such as 100 Continue
            return
        body, at = b"".join(self._body), time.perf_counter()
        answer = Answer(self._parser.get_status_code(), body, at, self._retry_after)
        self._body, self._begun, self._framed, self._retry_after = [], False, False, False
        self._free = self._parser.should_keep_alive()
        if self._answer and not self._answer.done():
            self._answer.set_result(answer)
