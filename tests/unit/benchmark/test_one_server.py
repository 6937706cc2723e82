"""One server under load: its batch sizes, the CPU time of its processes, and benchmarks/serving.py."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from PIL import Image
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from raycls import machine
from raycls.benchmark import batch_counts, one_server, usage
from raycls.benchmark.batch_counts import between, forward_ms, scrape
from raycls.benchmark.images import read_images, write_images
from raycls.benchmark.results import Plan
from raycls.cli import run
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError

ROOT = Path(__file__).parents[3]


class Replicas:
    """A server that behaves like two replicas behind an ingress: they get the requests in turns."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        sizes = Histogram(
            "raycls_batch_images", "", ["replica"], buckets=(1, 2, 4, 8), registry=self.registry
        )
        self.sizes = [sizes.labels(name) for name in "ab"]
        self.turn = 0

    async def predict(self, request: web.Request) -> web.Response:
        self.turn += 1
        self.sizes[self.turn % 2].observe(3 if self.turn % 2 else 1)
        return web.json_response({"class_name": "red"})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry))


@pytest.fixture
def replicas(serve: Callable[..., str]) -> str:
    """Start such a server and return the URL of its /predict."""
    two = Replicas()
    return serve(two.predict, two.metrics)


def test_batch_sizes_are_summed_over_all_replicas(replicas, images):
    before = scrape(replicas, 2)
    assert set(before) == {"a", "b"}
    (point,) = one_server.measure(replicas, images, Plan(connections=(2,), rates=(), seconds=0.3, repeats=1))
    mean, most = between(before, scrape(replicas, 2))
    assert mean == pytest.approx(2.0, abs=0.1)  # batches of 3 and of 1 in turns
    assert most == 4  # the bucket that holds 3
    assert point.batch_mean == pytest.approx(2.0, abs=0.1)


def test_a_replica_that_never_appears_is_an_error(replicas, monkeypatch):
    monkeypatch.setattr(batch_counts, "SCRAPE_S", 0.5)
    with pytest.raises(BenchmarkError, match="lists 2 of 3 replicas"):
        scrape(replicas, 3)


def test_a_server_without_metrics_has_no_batch_sizes(serve, images):
    async def predict(request: web.Request) -> web.Response:
        return web.json_response({"class_name": "red"})

    assert scrape(serve(predict), 1) == {}
    assert between({}, {}) is None


def test_the_forward_pass_takes_the_time_that_the_replica_counts(serve):
    registry, sizes = CollectorRegistry(), []
    passes = Histogram("raycls_forward_seconds", "", ["replica"], registry=registry).labels("a")

    async def predict(request: web.Request) -> web.Response:
        form = await request.post()
        sizes.append(len(form.getall("file")))
        passes.observe(0.004)
        return web.json_response({"class_name": "red"})

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry))

    assert forward_ms(serve(predict, metrics), b"image", batch=3) == pytest.approx(4.0)
    assert set(sizes) == {3}


def test_auto_rates_are_half_and_four_fifths_of_the_closed_loop_peak(serve, images):
    async def predict(request: web.Request) -> web.Response:
        await asyncio.sleep(0.01)  # few requests/s, so that any machine can keep up
        return web.json_response({"class_name": "red"})

    points = one_server.measure(serve(predict), images, Plan(connections=(1, 4), seconds=0.3, repeats=1))
    closed, opened = points[:2], points[2:]
    peak = max(point.requests_per_s for point in closed)
    assert [point.connections for point in closed] == [1, 4]
    assert [point.rate for point in opened] == pytest.approx([0.5 * peak, 0.8 * peak])
    for point in points:
        assert len(point.samples) == 1
        assert point.errors == {}
        assert 0 < point.cores["generator"] <= point.cores["busy"]


def test_a_server_that_answers_no_request_with_200_is_an_error(serve, images):
    async def predict(request: web.Request) -> web.Response:
        return web.Response(status=503)

    with pytest.raises(BenchmarkError, match=r"no request with status 200; it answered: \{'503'"):
        one_server.measure(serve(predict), images, Plan(connections=(1,), seconds=0.3))


@pytest.fixture
def spinning_replica() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that has a replica's name and keeps one core busy."""
    process = subprocess.Popen(
        ["ray::ServeReplica:app:Classifier", "-c", "while True: pass"], executable=sys.executable
    )
    yield process
    process.kill()
    process.wait()


def test_the_meter_counts_the_cpu_time_of_replicas(spinning_replica):
    # The idle cluster of other tests may run below this process too.
    (found,) = [p for p in usage.replicas(os.getpid()) if p.pid == spinning_replica.pid]
    meter = usage.Meter(os.getpid())
    time.sleep(0.5)
    cores = meter.cores()
    assert cores["ingress"] < cores["replicas"]
    assert 0.05 < cores["replicas"] <= cores["busy"] * 1.1
    assert cores["busy"] <= machine.cores() * 1.1
    assert usage.memory_mib([found]) > 1
    spinning_replica.kill()
    spinning_replica.wait()
    assert spinning_replica.pid not in [p.pid for p in usage.replicas(os.getpid())]


def test_the_images_are_the_test_split_without_loss(digits_home, tmp_path):
    dataset = open_dataset("digits")
    write_images(dataset, tmp_path, 50)
    paths = list(tmp_path.rglob("*.png"))
    assert len(paths) == len(read_images(tmp_path)) == 50
    for path in paths:
        index = int(path.stem)
        assert np.array_equal(np.asarray(Image.open(path)), dataset.images("test")[index])
        assert path.parent.name == dataset.info.classes[dataset.labels("test")[index]]


def test_bench_measures_a_running_server_and_ends_with_one_json_document(replicas, images, tmp_path, capsys):
    url = replicas.removesuffix("/predict")
    loads = ["--connections", "2", "--rates", "100", "--seconds", "0.3", "--repeats", "2"]
    output = ["--json", "--output", str(tmp_path / "out")]
    assert run(["bench", "--url", url, "--images", str(images), *loads, *output]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out.splitlines()[-1])
    closed, opened = document["points"]
    assert closed["n"] == pytest.approx(2 * 0.3 * closed["requests_per_s"], rel=0.2)
    assert opened["n"] == 60
    assert opened["late_p99_ms"] is not None
    assert document["accuracy_over_http"] == pytest.approx(0.5, abs=0.1)
    assert (tmp_path / "out" / "serving.md").read_text().startswith(f"# Serving {url}")
    assert "2 connections" in captured.err


def test_a_wrong_option_of_the_script_ends_with_one_line_and_exit_code_2():
    command = [sys.executable, ROOT / "benchmarks" / "serving.py", "--connections", "many"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: connections.0='many': ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replicas", "0"], r"replicas\.0='0': input should be greater than or equal to 1"),
        (["--rates", "fast"], r"rates"),
        (["--url", "http://127.0.0.1:1"], "--url needs --images"),
        (["--url", "http://192.0.2.1", "--images", "IMAGES"], "add --allow-remote"),
        (["--url", "http://127.0.0.1:1", "--images", "tests/unit"], "there are no images in"),
    ],
)
def test_a_wrong_option_of_bench_is_an_error(arguments, message, images, capsys):
    assert run(["bench", *(str(images) if argument == "IMAGES" else argument for argument in arguments)]) == 2
    assert re.search(message, capsys.readouterr().err)
