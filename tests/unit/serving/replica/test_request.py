"""Bodies to images, without a server: what the parser takes, and how it reads."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
import uvicorn
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from raycls.errors import ImageError, ImageTooLargeError, NotAnImageError
from raycls.serving.replica.answer import HTTPProblem, image_problem
from raycls.serving.replica.batching import ClientGone
from raycls.serving.replica.body import IncomingBodies, connected, read_body
from raycls.serving.replica.request import Wanted, headers_of, images_of, wanted_of


def request(chunks: list[bytes], headers: dict[str, str] | None = None) -> tuple[Request, list[bytes]]:
    """A request whose body comes in these chunks, and the list of those not yet read."""
    remaining = list(chunks)

    async def receive() -> dict[str, object]:
        body = remaining.pop(0) if remaining else b""
        return {"type": "http.request", "body": body, "more_body": bool(remaining)}

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive), remaining


def without_headers(receive: Receive) -> Request:
    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def asked(query: str) -> Request:
    return Request({"type": "http", "method": "POST", "headers": [], "query_string": query.encode()})


def test_reading_stops_at_the_limit() -> None:
    incoming, unread = request([b"x" * 10] * 100)
    with pytest.raises(HTTPProblem, match="larger than 50 bytes") as caught:
        asyncio.run(read_body(incoming, limit=50, timeout_s=5, incoming=IncomingBodies(8, 1000)))
    assert caught.value.status == 413
    assert len(unread) == 94  # six chunks were enough to know


@pytest.mark.parametrize("declared", ["51", "9" * 30])
def test_a_declared_length_over_the_limit_is_refused_unread(declared: str) -> None:
    incoming, unread = request([b"x"] * 3, {"content-length": declared})
    with pytest.raises(HTTPProblem):
        asyncio.run(read_body(incoming, limit=50, timeout_s=5, incoming=IncomingBodies(8, 1000)))
    assert len(unread) == 3


def test_a_body_at_the_limit_is_whole() -> None:
    incoming, _ = request([b"ab", b"cd", b"e"], {"content-length": "5"})
    assert (
        asyncio.run(read_body(incoming, limit=5, timeout_s=5, incoming=IncomingBodies(8, 1000))) == b"abcde"
    )


@pytest.mark.parametrize(("count", "size"), [(2, 1000), (9, 25)])
def test_the_oldest_body_makes_room_for_others(count: int, size: int) -> None:
    arrivals = IncomingBodies(count, size)

    def dawdler() -> asyncio.StudyContext[bytes]:
        sent: list[bytes] = []

        async def receive() -> dict[str, object]:
            if sent:
                await asyncio.sleep(60)
            sent.append(bytes(10))
            return {"type": "http.request", "body": sent[0], "more_body": True}

        reading = read_body(without_headers(receive), limit=50, timeout_s=30, incoming=arrivals)
        return asyncio.create_task(reading)

    async def meet() -> None:
        slow = []
        for _ in range(2):
            slow.append(dawdler())
            await asyncio.sleep(0.01)
        assert await read_body(request([bytes(10)])[0], limit=50, timeout_s=5, incoming=arrivals) == bytes(10)
        with pytest.raises(HTTPProblem, match="other requests needed its place") as caught:
            await slow[0]
        assert caught.value.status == 408
        assert not slow[1].done()
        slow[1].cancel()
        await asyncio.wait(slow)
        whole = request([bytes(25)])[0]
        assert await read_body(whole, limit=50, timeout_s=5, incoming=arrivals) == bytes(25)

    asyncio.run(meet())


def test_who_leaves_while_sending_is_waited_for_no_more() -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        asyncio.run(
            read_body(without_headers(receive), limit=5, timeout_s=5, incoming=IncomingBodies(8, 1000))
        )


@pytest.mark.parametrize("size", [10, 70_000, 330_000])
def test_a_client_that_leaves_is_noticed(size: int) -> None:
    """After a large piece uvicorn stops reading, and would not see the end of the connection."""
    told: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        incoming = Request(scope, receive)
        assert len(await read_body(incoming, size, 10, IncomingBodies(8, size))) == size
        there = connected(incoming)
        assert there()
        told.append("read")
        for _ in range(500):
            if not there():
                told.append("left")
                return
            await asyncio.sleep(0.01)

    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_config=None))
        serving = asyncio.create_task(server.serve([listening]))
        _, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        while not told:
            await asyncio.sleep(0.01)
        writer.close()
        while len(told) < 2 and not serving.done():
            await asyncio.sleep(0.01)
        server.should_exit = True
        await serving

    asyncio.run(asyncio.wait_for(main(), 20))
    assert told == ["read", "left"]


def test_behind_another_server_every_client_is_there() -> None:
    assert connected(request([b"x"])[0])()


def test_a_sender_that_dawdles_is_told_so() -> None:
    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.04)  # something comes in all the time, and never the end
        return {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.raises(HTTPProblem, match=r"within 0\.1 s") as caught:
        asyncio.run(
            read_body(without_headers(receive), limit=1000, timeout_s=0.1, incoming=IncomingBodies(8, 1000))
        )
    assert caught.value.status == 408
    assert caught.value.headers == {"Connection": "close"}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", Wanted(0, False, False)),
        ("explain=true", Wanted(0, True, False)),
        ("embedding=true&explain=false", Wanted(0, False, True)),
        ("top_k=3", Wanted(3, False, False)),
        ("explain=%74rue&top_k=1", Wanted(1, True, False)),
    ],
)
def test_what_the_query_asks_for(query: str, wanted: Wanted) -> None:
    assert wanted_of(asked(query)) == wanted


def test_the_first_of_two_headers_counts() -> None:
    raw = [(b"host", b"one"), (b"x", b"\xff"), (b"host", b"two")]
    assert headers_of(Request({"type": "http", "headers": raw})) == {"host": "one", "x": "\xff"}


@pytest.mark.parametrize("name", ["explain", "embedding"])
@pytest.mark.parametrize("value", ["", "1", "True"])
def test_a_flag_that_is_neither(name: str, value: str) -> None:
    with pytest.raises(HTTPProblem, match=f"{name} must be true or false"):
        wanted_of(asked(f"{name}={value}"))


@pytest.mark.parametrize("kind", ["image/png", "IMAGE/JPEG; q=1", "application/octet-stream", None])
def test_raw_bodies_are_passed_on_untouched(kind: str | None) -> None:
    headers = Headers({"content-type": kind} if kind else {})
    assert asyncio.run(images_of(headers, b"\x00\xff", 1)) == ([b"\x00\xff"], False)


def test_a_large_form_part_stays_whole() -> None:
    data = bytes(range(256)) * 10_000
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + data + b"\r\n--b--\r\n"
    )
    headers = Headers({"content-type": "multipart/form-data; boundary=b"})
    assert asyncio.run(images_of(headers, body, 1)) == ([data], False)


def test_problem_documents_follow_rfc_9457() -> None:
    response = HTTPProblem(429, "wait", {"Retry-After": "1"}).response()
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "wait",
    }


def test_a_problem_repeats_the_id_of_its_request() -> None:
    response = HTTPProblem(400, "why").response({"x-request-id": "r1"})
    assert json.loads(bytes(response.body))["request_id"] == "r1"
    assert "request_id" not in json.loads(bytes(HTTPProblem(400, "why").response({}).body))


@pytest.mark.parametrize(
    ("error", "status"), [(ImageError, 400), (NotAnImageError, 415), (ImageTooLargeError, 413)]
)
def test_image_errors_have_their_status(error: type[ImageError], status: int) -> None:
    assert image_problem(error("why")).status == status
