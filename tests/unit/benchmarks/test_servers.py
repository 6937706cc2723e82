"""The comparison of servers: request forms, starting and checking a server, and the results page."""

from __future__ import annotations

import asyncio
import base64
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web
from harness import h2load, servers_page, serving_peers, wrk
from harness.results_page import Row
from harness.serving_peers import Server, check, settle, started

from raycls.benchmark.images import read_images
from raycls.benchmark.load import MAX_OUTSTANDING, Load, LoadGenerator
from raycls.benchmark.request_forms import FORMS
from raycls.errors import BenchmarkError


class Peers:
    """A server that accepts every request form, answers with the image's class, and keeps the images."""

    def __init__(self, images: Path) -> None:
        self.labels = {image.body: image.label for image in read_images(images)}
        self.seen: set[bytes] = set()

    async def predict(self, request: web.Request) -> web.Response:
        if request.content_type == "multipart/form-data":
            image = (await request.post())["images"].file.read()
            return web.json_response([self.answer(image)])
        if request.content_type == "application/json":
            document = await request.json()
            if "inputs" in document:
                answers = [self.answer(base64.b64decode(text)) for text in document["inputs"]]
                return web.json_response({"predictions": answers})
            return web.json_response(self.answer(base64.b64decode(document["image_data"])))
        return web.json_response(self.answer(await request.read()))

    def answer(self, image: bytes) -> dict[str, Any]:
        self.seen.add(image)
        return {"class_name": self.labels[image]}


@pytest.fixture
def server(images: Path) -> Peers:
    return Peers(images)


@pytest.fixture
def form() -> str:
    return "raw"


@pytest.fixture
def bodies(images: Path, tmp_path: Path, form: str) -> Path:
    """Write the images as wrk sends them: raw, unless the test is parametrised by the form."""
    folder = tmp_path / "bodies"
    folder.mkdir()
    wrk.write(read_images(images), FORMS[form], folder)
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_the_own_client_sends_every_image_in_each_form_and_reads_the_answers(
    serve: Callable[..., str], server: Peers, images: Path, form: str
) -> None:
    with LoadGenerator(serve(server.predict), images, form=form) as generator:
        sample = generator.measure(Load(connections=2, seconds=0.5, warmup_seconds=0.2))
    assert server.seen == set(server.labels)
    assert sample.errors == {}
    assert sample.correct == sample.labelled == sample.answered > 0


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
@pytest.mark.parametrize("form", FORMS)
def test_wrk_sends_the_same(serve: Callable[..., str], server: Peers, bodies: Path) -> None:
    loop = wrk.closed(serve(server.predict), bodies, connections=2, seconds=1)
    assert server.seen == set(server.labels)
    assert loop.failed == 0
    assert loop.requests_per_s > 10
    assert 0 < loop.p50_ms <= loop.p99_ms < 1000


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_wrk_counts_failed_requests(serve: Callable[..., str], bodies: Path) -> None:
    async def busy(request: web.Request) -> web.Response:
        return web.Response(status=429)

    loop = wrk.closed(serve(busy), bodies, connections=2, seconds=1)
    assert loop.failed > 0
    assert loop.requests_per_s == 0
    with pytest.raises(BenchmarkError, match="wrk failed: "):
        wrk.closed("http://127.0.0.1:1/predict", bodies, connections=1, seconds=1)


@pytest.mark.skipif(not h2load.installed(), reason="h2load is not installed")
def test_h2load_counts_refused_requests_apart(serve: Callable[..., str], images: Path) -> None:
    turns, body = itertools.cycle([200, 429, 500]), read_images(images)[0].body

    async def some(request: web.Request) -> web.Response:
        assert await request.read() == body
        return web.Response(status=next(turns))

    url = serve(some)
    closed = h2load.drive(url, read_images(images), Load(connections=2, seconds=1, warmup_seconds=0.5))
    assert closed.answered == pytest.approx(closed.errors["429"], abs=2)
    assert set(closed.errors) == {"429", "500"}
    assert closed.p99_ms and closed.refused_p99_ms
    assert closed.requests_per_s == closed.answered
    # One from each connection, at once: it would send its second after five seconds.
    offered = h2load.drive(
        url, read_images(images), Load(rate=MAX_OUTSTANDING / 5, seconds=4, warmup_seconds=0)
    )
    assert offered.answered + sum(offered.errors.values()) == MAX_OUTSTANDING
    with pytest.raises(BenchmarkError, match="h2load failed: "):
        h2load.drive("http://127.0.0.1:1/predict", read_images(images), Load(connections=1, seconds=1))


@pytest.mark.parametrize("peer", serving_peers.PEERS, ids=lambda peer: peer.name)
def test_a_peer_must_give_the_models_classes(
    serve: Callable[..., str], server: Peers, images: Path, peer: Server
) -> None:
    url, right = serve(server.predict), [str(image.label) for image in read_images(images)]
    check(peer, url, images, right)
    with pytest.raises(BenchmarkError, match=f"{peer.name} gives only 0 of 10 images".replace("+", r"\+")):
        check(peer, url, images, ["green"] * len(right))


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_wrk_counts_unanswered_requests_apart(serve: Callable[..., str], bodies: Path) -> None:
    turn = itertools.count()

    async def every_other(request: web.Request) -> web.Response:
        if next(turn) % 2 and request.transport:
            request.transport.abort()
        return web.Response()

    loop = wrk.closed(serve(every_other), bodies, connections=2, seconds=1)
    assert loop.failed > 10
    assert loop.requests_per_s > 10


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_wrk_counts_from_the_end_of_the_warm_up(serve: Callable[..., str], bodies: Path) -> None:
    seen = itertools.count()

    async def slow_at_first(request: web.Request) -> web.Response:
        await asyncio.sleep(0.01 if next(seen) else 0.9)
        return web.Response()

    url = serve(slow_at_first)
    loop = wrk.closed(url, bodies, connections=1, seconds=1, warmup_seconds=1)
    assert 30 < loop.requests_per_s < 100  # not the half of it that two seconds would give


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_wrk_counts_whole_turns_of_a_server_that_answers_many_at_once(
    serve: Callable[..., str], bodies: Path
) -> None:
    begun = 0.0

    async def in_batches(request: web.Request) -> web.Response:
        nonlocal begun
        begun = begun or time.perf_counter()
        await asyncio.sleep(0.75 - (time.perf_counter() - begun) % 0.75)
        return web.Response()

    url = serve(in_batches)
    loop = wrk.closed(url, bodies, connections=20, seconds=2, warmup_seconds=1)
    assert loop.requests_per_s == pytest.approx(20 / 0.75, rel=0.06)  # 30 or 20, were the two seconds counted
    begun = 0.0
    short = wrk.closed(url, bodies, connections=20, seconds=0.6, warmup_seconds=1)
    assert short.requests_per_s == pytest.approx(20 / 0.6)  # less than a turn: what was sent in it


def test_a_load_waits_for_a_server_that_is_full(
    serve: Callable[..., str], images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []

    async def full_at_first(request: web.Request) -> web.Response:
        statuses.append(429 if len(statuses) < 3 else 200)
        return web.Response(status=statuses[-1])

    async def full(request: web.Request) -> web.Response:
        return web.Response(status=429)

    mine = Server(name="mine")
    settle(mine, serve(full_at_first), images)
    assert statuses == [429] * 3 + [200] * 2 * max(serving_peers.COUNTS)
    monkeypatch.setattr(serving_peers, "SETTLED_S", 0.2)
    with pytest.raises(BenchmarkError, match=r"mine answers 429 for 0\.2 s without any load"):
        settle(mine, serve(full), images)


def test_a_peer_that_refuses_requests_is_an_error(serve: Callable[..., str], images: Path) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=422, text="images: field required")

    with pytest.raises(BenchmarkError, match="BentoML answers 422: images: field required"):
        check(Server(name="BentoML", form="multipart"), serve(refuse), images, ["red"])


PROGRAM = """\
import http.server, pathlib, sys, tempfile, threading

def load(worker):
    pathlib.Path(tempfile.gettempdir(), f"loaded-{worker}").touch()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(400)
        self.end_headers()
        self.wfile.write(b"%d" % len(list(pathlib.Path(tempfile.gettempdir()).glob("loaded-*"))))

_, directory, port, count = sys.argv
print("serving", directory, "with", count, flush=True)
load(0)
threading.Timer(1.5, load, [1]).start()
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


def test_a_peer_serves_until_the_end_of_its_measurement(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM)
    mine = Server(name="mine", program="mine")
    with started(mine, Path(sys.executable), tmp_path, tmp_path, 2) as url:
        answer = requests.post(url, timeout=5)
        assert (answer.status_code, answer.text) == (400, "2")  # both workers have loaded the model
    with pytest.raises(requests.ConnectionError):
        requests.post(url, timeout=5)


def test_a_peer_that_ends_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('no such checkpoint')")
    mine = Server(name="mine", program="mine")
    with (
        pytest.raises(BenchmarkError, match="mine ended; the last lines of its log:\nno such checkpoint"),
        started(mine, Path(sys.executable), tmp_path, tmp_path, 1),
    ):
        pass


def _rows(turn: int, speed: float) -> list[Row]:
    """Return one round: raycls is four times as fast as the peer; two replicas are twice as fast as one."""
    rows: list[Row] = [
        {"round": turn, "bound": "bare processes", "images_per_s": 1000 * speed, "one_ms": 1 / speed}
    ]
    for name, count, factor in (("raycls", 1, 200), ("raycls", 2, 400), ("FastAPI + uvicorn", 2, 100)):
        own = {"round": turn, "server": name, "count": count, "failed": 0}
        for connections in serving_peers.CONNECTIONS:
            times = {"p50_ms": connections * 2 / speed, "p99_ms": connections * 3 / speed}
            rate = factor * speed * (1 if connections == 32 else 0.5)
            rows.append({**own, "connections": connections, "client": "wrk", "requests_per_s": rate, **times})
        for share in serving_peers.SHARES:
            load = {"share": share, "rate": 1.0, "client": "our own client", "requests_per_s": 1.0}
            rows.append({**own, **load, "p50_ms": 2.0, "p99_ms": 9.0})
    return rows


def test_ratios_are_of_the_same_round() -> None:
    rows = [*_rows(0, 1.0), *_rows(1, 0.5), *_rows(2, 2.0)]
    measured = {goal.name: goal.figures(rows) for goal in servers_page.GOALS}
    assert measured["requests/s / those of FastAPI + uvicorn, 2 workers"] == [4, 4, 4]
    assert measured["requests/s / the bound: bare processes that decode and classify"] == [0.4] * 3
    assert measured["requests/s of two replicas / those of one"] == [2, 2, 2]
    assert measured["p99 / p50 at half load"] == [4.5] * 3
    assert measured["p50 at one connection minus the forward pass, ms"] == [1.0, 2.0, 0.5]
    assert measured["requests/s / those of LitServe, best number of workers"] == []  # not measured


def test_the_page_shows_which_goal_was_missed() -> None:
    arguments = {"network": "fastcnn", "image_size": 32, "engine": "openvino", "seconds": 3.0}
    document = {"arguments": arguments, "rows": _rows(0, 1.0), "date": "2026-01-01 10:00"}
    page = servers_page.SECTIONS["small"]({"small": document})
    assert "FastAPI + uvicorn, 2 workers | ≥ 3.5 | **4.00** (4.00 to 4.00) | met |" in page
    assert "| ≥ 0.55 | **0.40** (0.40 to 0.40) | missed |" in page
    assert "| p99 / p50 at half load | ≤ 4 | **4.50** (4.50 to 4.50) | missed |" in page
    assert "LitServe" not in page
    assert "| raycls | 2 | 200 | 200 | 400 | 200 | 2.0 | 3.0 | 2.0 | 9.0 | 2.0 | 9.0 | 0 |" in page
