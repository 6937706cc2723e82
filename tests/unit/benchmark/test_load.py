"""The load generator, against real servers on loopback that stall, fail or never answer."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from PIL import Image

from raycls.benchmark.images import read_images
from raycls.benchmark.load import MAX_OUTSTANDING, Load, LoadGenerator, Sample, check_url
from raycls.errors import BenchmarkError, UsageError

Handler = Callable[[web.Request], object]


def measure(url: str, images: Path, **load: float) -> Sample:
    with LoadGenerator(url, images) as generator:
        return generator.measure(Load.model_validate({"seconds": 1, "warmup_seconds": 0.2, **load}))


def test_a_closed_loop_keeps_exactly_its_connections_busy_and_sends_every_image(serve, images):
    running, most, bodies, ports = 0, 0, set(), set()

    async def handler(request: web.Request) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        body = await request.read()
        assert request.content_type == "image/png"
        bodies.add(body)
        ports.add(request.transport.get_extra_info("peername"))
        await asyncio.sleep(0.02)
        running -= 1
        red, _, blue = Image.open(io.BytesIO(body)).getpixel((0, 0))
        return web.json_response({"class_name": "red" if red > blue else "not blue"})

    sample = measure(serve(handler), images, connections=4)
    assert most == len(ports) == 4
    assert bodies == {path.read_bytes() for path in images.rglob("*.png")}
    assert 20 <= sample.p50_ms <= sample.p95_ms <= sample.p99_ms <= sample.max_ms
    assert sample.answered <= 4 / 0.02 * 1.1  # answers during the warm-up are not counted
    assert sample.requests_per_s == pytest.approx(4 * 1000 / sample.mean_ms, rel=0.1)  # Little's law
    assert sample.errors == {}
    assert sample.labelled == sample.answered
    assert sample.correct / sample.labelled == pytest.approx(0.5, abs=0.1)


def test_an_open_loop_charges_a_stall_to_every_request_that_was_due_in_it(serve, images):
    def stalling() -> Handler:
        seen = 0
        stalled_until = 0.0

        async def handler(request: web.Request) -> web.Response:
            nonlocal seen, stalled_until
            seen += 1
            now = asyncio.get_running_loop().time()
            if seen == 60:
                stalled_until = now + 0.6
            await asyncio.sleep(max(0, stalled_until - now))
            return web.json_response({"class_name": "red"})

        return handler

    opened = measure(serve(stalling()), images, rate=100, seconds=2)
    # About 60 of 200 requests were scheduled during the stall. They waited up to 0.6 s.
    assert opened.answered == pytest.approx(200, abs=2)
    assert opened.p95_ms > 300
    assert opened.p50_ms < opened.p95_ms / 2
    # One connection in a closed loop meets the stall in a single request, so p95 stays low.
    closed = measure(serve(stalling()), images, connections=1)
    assert closed.p95_ms < closed.max_ms / 2


def test_a_server_that_blocks_its_own_accepting_is_charged_too(serve, images):
    seen = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        if seen == 60:
            threading.Event().wait(0.6)  # the server reads and answers nothing in this time
        return web.json_response({"class_name": "red"})

    sample = measure(serve(handler), images, rate=100, seconds=2)
    assert sample.p95_ms > 300
    assert sample.late_p99_ms < 300  # the generator itself sent on time


def test_errors_are_counted_by_kind_and_stay_out_of_the_latencies(serve, images):
    seen = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        if seen % 3 == 0:
            await asyncio.sleep(0.3)
            return web.Response(status=503)
        return web.Response(text="hello") if seen % 3 == 1 else web.json_response({"class_name": "red"})

    sample = measure(serve(handler), images, connections=1, warmup_seconds=0)
    assert set(sample.errors) == {"503", "answer without class_name"}
    assert sample.errors["503"] == pytest.approx(sample.answered, abs=1)
    assert sample.p95_ms < 300


def test_a_server_that_never_answers_costs_bounded_requests_and_time(serve, images):
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    sample = measure(serve(handler), images, rate=1000, seconds=1, warmup_seconds=0, timeout_seconds=1.5)
    assert sample.answered == 0
    assert sample.p50_ms is None
    assert sample.errors == {
        "timeout": MAX_OUTSTANDING,
        f"not sent: {MAX_OUTSTANDING} unanswered": 1000 - 512,
    }


def test_connections_that_the_server_ends_between_requests_lose_none(serve, images):
    ports = []

    async def handler(request: web.Request) -> web.Response:
        ports.append(request.transport.get_extra_info("peername"))
        asyncio.get_running_loop().call_later(0.01, request.transport.close)
        return web.json_response({"class_name": "red"})

    sample = measure(serve(handler), images, rate=10, seconds=2, warmup_seconds=0)
    assert sample.errors == {}
    assert len(set(ports)) == len(ports) == sample.answered == 20


def test_a_late_answer_is_not_counted_for_the_next_request(serve, images):
    seen = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        if seen == 3:
            await asyncio.sleep(0.4)
        red, _, blue = Image.open(io.BytesIO(await request.read())).getpixel((0, 0))
        return web.json_response({"class_name": "red" if red > blue else "blue"})

    sample = measure(serve(handler), images, connections=1, warmup_seconds=0, timeout_seconds=0.2)
    assert sample.errors == {"timeout": 1}
    assert sample.correct == sample.labelled == sample.answered > 10


def test_without_a_server_every_request_is_an_error(serve, images):
    sample = measure("http://127.0.0.1:9/predict", images, rate=40, seconds=0.5, warmup_seconds=0)
    assert sample.errors == {"ConnectionRefusedError": 20}


def test_a_sender_that_dies_is_an_error(serve, images):
    with LoadGenerator("http://127.0.0.1:9/predict", images) as generator:
        assert generator.pid != os.getpid()
        os.kill(generator.pid, signal.SIGKILL)
        with pytest.raises(BenchmarkError, match="ended without a result"):
            generator.measure(Load(connections=1))


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/predict", "http://localhost/x", "https://[::1]:1/x"])
def test_load_may_be_sent_to_this_machine(url):
    assert check_url(url) == url


def test_load_is_sent_to_another_machine_only_if_allowed():
    with pytest.raises(UsageError, match=r"192\.0\.2\.1 is another machine: add --allow-remote"):
        check_url("http://192.0.2.1/predict")
    assert check_url("http://192.0.2.1/predict", allow_remote=True)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://127.0.0.1/",
        "http:///predict",
        "http://127.0.0.1:80800/",
        "http://127.0.0.1:0/",
        "http://me:word@127.0.0.1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/ä",
    ],
)
def test_an_invalid_url_is_an_error(url):
    with pytest.raises(UsageError, match="is not a URL"):
        check_url(url, allow_remote=True)


def test_images_in_the_folder_itself_have_no_class(images):
    (images / "loose.jpg").write_bytes(b"sent as it is")
    (images / "notes.txt").write_text("no image")
    read = read_images(images)
    assert len(read) == 11
    assert {(i.label, i.content_type) for i in read} == {
        ("red", "image/png"), ("blue", "image/png"), (None, "image/jpeg")
    }  # fmt: skip


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="there are no images in"):
        LoadGenerator("http://127.0.0.1:8000/predict", tmp_path)


@pytest.mark.parametrize("load", [{}, {"connections": 1, "rate": 1.0}, {"connections": 0}, {"rate": -1.0}])
def test_a_load_is_one_kind_and_positive(load):
    with pytest.raises(ValueError, match=r"connections|rate"):
        Load.model_validate(load)
