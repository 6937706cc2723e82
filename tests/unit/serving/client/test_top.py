"""Counts read back from /metrics, and what `raycls top` makes of two looks at them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from aiohttp import web

from raycls.cli import run
from raycls.serving.client.scrape import Histogram, parse
from raycls.serving.client.top import watch
from raycls.serving.replica.metrics import Metrics, exposition
from tests.unit.serving.replica.test_metrics import counted


def text(*replicas: Metrics) -> str:
    return bytes(exposition([replica.collect(pending=7) for replica in replicas]).body).decode()


def test_what_was_counted_is_read_back() -> None:
    a, b = counted("a"), counted("b")
    a.request(200, 0.004)
    a.request(429, 0.0001)
    a.batch([0.002, 0.002], decode_seconds=0.001, forward_seconds=0.003)
    found = parse(text(a, b))
    assert set(found) == {"a", "b"}
    assert (found["a"].model, found["a"].pending) == ("pets/3", 7)
    assert found["a"].answers == {"200": 1, "429": 1}
    assert found["b"].answers == {}
    assert found["a"].histograms["raycls_batch_images"].mean == 2
    assert found["a"].histograms["raycls_forward_seconds"].total == pytest.approx(0.003)
    before = found["a"]
    a.request(200, 0.004)
    past = parse(text(a))["a"].since(before)
    assert past.answers == {"200": 1, "429": 0}
    assert past.histograms["raycls_request_seconds"].count == 1
    assert past.histograms["raycls_batch_images"].mean is None


def test_a_quantile_is_linear_within_its_bucket() -> None:
    histogram = Histogram(10, 0.0, {1.0: 0, 2.0: 5, 4.0: 10, float("inf"): 10})
    assert histogram.quantile(0.5) == pytest.approx(2.0)
    assert histogram.quantile(0.25) == pytest.approx(1.5)
    assert histogram.quantile(0.75) == pytest.approx(3.0)
    assert histogram.largest == 4.0
    beyond = Histogram(10, 0.0, {1.0: 0, float("inf"): 10})
    assert beyond.quantile(0.5) == 1.0
    assert Histogram(0, 0.0, {1.0: 0}).quantile(0.5) is None


def test_top_shows_the_past_seconds(serve: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    replica = counted("a")

    async def predict(request: web.Request) -> web.Response:
        return web.json_response({})

    async def metrics(request: web.Request) -> web.Response:
        replica.request(200, 0.004)
        replica.request(415, 0.004)
        return web.Response(text=text(replica))

    url = serve(predict, metrics).removesuffix("/predict")
    assert run(["top", url, "--seconds", "0.2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (row,) = document["replicas"]
    assert row["requests_per_s"] == pytest.approx(2 / document["seconds"])
    assert row["errors_per_s"] == pytest.approx(1 / document["seconds"])
    assert 2.5 < row["p50_ms"] < 5
    assert row["batch_images"] is None
    assert document["p50_ms"] == row["p50_ms"]
    assert run(["top", url, "--seconds", "0.2", "--once"]) == 0
    assert "pets/3" in capsys.readouterr().out


def test_top_goes_on_where_a_look_fails(serve: Callable[..., str]) -> None:
    replicas = [counted("a"), counted("b")]
    looks = 0

    async def predict(request: web.Request) -> web.Response:
        return web.json_response({})

    async def metrics(request: web.Request) -> web.Response:
        nonlocal looks
        looks += 1
        if looks == 2:
            return web.Response(status=500)
        for replica, seconds in zip(replicas, (0.004, 0.04), strict=True):
            replica.request(200, seconds)
        return web.Response(text=text(*replicas))

    views = watch(serve(predict, metrics).removesuffix("/predict"), 0.1)
    first, second = next(views), next(views)
    assert "500" in (first.problem or "")
    assert second.problem is None
    assert len(second.replicas) == 2
    assert second.p50_ms
    assert second.p99_ms
    assert second.p50_ms <= 5
    assert second.p99_ms > 25


def test_top_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", "http://127.0.0.1:9", "--once"]) == 1
    assert "start one with `raycls up`" in capsys.readouterr().err
