"""One HTTP/1.1 connection of a load generator: a request, its answer, the next request.

    connection = await Connection.open("http://127.0.0.1:8000/predict")
    answer = await connection.ask(post("http://127.0.0.1:8000/predict", image.body, "image/png", {}))
    answer.status, answer.body, answer.at

A general client parses, checks and keeps more than a load needs, on cores that the server could use: aiohttp's took up
to twice the CPU for a request. Here a request is made once and written whole, and httptools, which uvicorn reads
requests with, reads the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools


class AnswerError(Exception):
    """What came is no answer in HTTP/1.1."""


class Answer(NamedTuple):
    """at: when its last byte was read, on time.perf_counter's clock."""

    status: int
    body: bytes
    at: float
    retry_after: bool = False  # whether it says when to come back


def post(url: str, body: bytes, content_type: str, headers: Mapping[str, str]) -> bytes:
    """The bytes of a POST."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {"Host": parts.netloc, "Content-Type": content_type, "Content-Length": len(body), **headers}
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Connection(asyncio.Protocol):
    """Kept alive while the server keeps it."""

    _transport: asyncio.Transport
    _free = False
    _answer: asyncio.Future[Answer] | None = None

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._begun = self._framed = False  # an answer, and whether its head says where it ends
        self._retry_after = False

    @property
    def usable(self) -> bool:
        """Whether it takes another request: none is under way, and the server has not ended it."""
        return self._free and not self._transport.is_closing()

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Raises OSError where nobody listens."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        loop = asyncio.get_running_loop()
        port = parts.port or (443 if tls else 80)
        _, connection = await loop.create_connection(cls, parts.hostname or "", port, ssl=tls or None)
        return connection

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """The answer to come; OSError where the connection ends before it, AnswerError where it is none."""
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

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._framed |= name in (b"content-length", b"transfer-encoding")
        self._retry_after |= name == b"retry-after"

    def on_headers_complete(self) -> None:
        self._begun = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._begun:  # 100 Continue and its like come before the answer
            return
        body, at = b"".join(self._body), time.perf_counter()
        answer = Answer(self._parser.get_status_code(), body, at, self._retry_after)
        self._body, self._begun, self._framed, self._retry_after = [], False, False, False
        self._free = self._parser.should_keep_alive()
        if self._answer and not self._answer.done():
            self._answer.set_result(answer)
