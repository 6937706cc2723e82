"""An answer's head and body leave in one piece."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

from raycls.ray_patches import joined_answer
from tests.tcp import data_segments

BODY = b"x" * 100


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with head and body; with a pause between them under /slow."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(BODY))]}
    )
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    await send({"type": "http.response.body", "body": BODY})


@pytest.fixture(params=[True, False], ids=["whole", "as uvicorn does"])
def whole(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    if request.param:
        joined_answer.install()
    return bool(request.param)


@pytest.fixture
def address(whole: bool) -> Iterator[tuple[str, int]]:
    """Where a server on uvloop, as Ray's replicas have it, listens."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_level="critical"))
    ended: Future[None] = Future()

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listening]))
        ended.set_result(None)

    threading.Thread(target=serve, daemon=True).start()
    yield listening.getsockname()
    server.should_exit = True
    ended.result(timeout=10)


def answers(address: tuple[str, int], path: str, count: int = 1, *, close: bool = False) -> int:
    """Get count answers over one connection; how many segments with data came. close: the server then ends it."""
    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(count):
            header = "Connection: close\r\n" if close else ""
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
            got = b""
            while not got.endswith(b"\r\n\r\n" + BODY):
                piece = connection.recv(4096)
                assert piece
                got += piece
        segments = data_segments(connection)
        assert not close or connection.recv(1) == b""
    return segments


def test_head_and_body_come_together(address: tuple[str, int], whole: bool) -> None:
    assert answers(address, "/", 200) == (200 if whole else 400)


@pytest.mark.parametrize("whole", [True], indirect=True)
def test_an_answer_that_ends_its_connection_is_whole(address: tuple[str, int]) -> None:
    assert answers(address, "/", close=True) == 1


@pytest.mark.parametrize("whole", [True], indirect=True)
def test_a_head_whose_body_takes_longer_does_not_wait(address: tuple[str, int]) -> None:
    assert answers(address, "/slow") == 2


@pytest.mark.parametrize("whole", [True], indirect=True)
def test_a_client_that_leaves_meanwhile_troubles_nobody(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answers(address, "/", 3) == 3
