"""One connection of the load generator, against a server that sends exactly the bytes of each test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from raycls.benchmark.connection import AnswerError, Connection, post

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\n\r\nhello"


def talk(answer: bytes, test: Callable[[str, list[bytes]], Coroutine[Any, Any, None]], close: bool) -> None:
    """Run `test` with a server's URL and the bytes that the server has read. It sends `answer` byte by byte."""
    read: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(1000):
            read.append(asked)
            for byte in answer:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)  # lets the client read it
            if close:
                break
        writer.close()

    async def both() -> None:
        async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await test(f"http://127.0.0.1:{port}/predict?top_k=2", read)

    asyncio.run(both())


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, CONTINUED])
def test_one_request_after_another_on_the_same_connection(answer):
    async def test(url: str, read: list[bytes]) -> None:
        connection = await Connection.open(url)
        request = post(url, b"\x00body", "image/png", {"Authorization": "Bearer secret"})
        for count in (1, 2, 3):
            given = await connection.ask(request)
            assert (given.status, given.body) == (200, b"hello")
            assert connection.usable
            assert len(read) == count
        connection.abort()
        head, _, body = read[0].partition(b"\r\n\r\n")
        assert body == b"\x00body"
        assert head.startswith(b"POST /predict?top_k=2 HTTP/1.1\r\nHost: 127.0.0.1:")
        fields = head.split(b"\r\n")[2:]
        assert set(fields) == {
            b"Content-Type: image/png", b"Content-Length: 5", b"Authorization: Bearer secret"
        }  # fmt: skip

    talk(answer, test, close=False)


@pytest.mark.parametrize("answer", [LAST, UNTIL_CLOSED])
def test_a_connection_that_the_server_closes_gives_one_answer(answer):
    async def test(url: str, read: list[bytes]) -> None:
        connection = await Connection.open(url)
        given = await connection.ask(post(url, b"", "image/png", {}))
        assert (given.status, given.body) == (200, b"hello")
        assert not connection.usable

    talk(answer, test, close=True)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (LENGTH[:-1], ConnectionResetError),
        (b"", ConnectionResetError),
        (b"hello", AnswerError),
        (UPGRADE, AnswerError),
    ],
)
def test_an_incomplete_answer_is_an_error(answer, error):
    async def test(url: str, read: list[bytes]) -> None:
        connection = await Connection.open(url)
        with pytest.raises(error):
            await connection.ask(post(url, b"", "image/png", {}))
        assert not connection.usable

    talk(answer, test, close=True)
