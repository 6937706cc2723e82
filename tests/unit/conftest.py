"""Real servers on loopback, images to send them, and two small models of `digits`."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from PIL import Image

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.engines import openvino_int8
from raycls.engines.openvino_graph import INT8_FOLDER
from raycls.engines.predictor import Predictor
from raycls.training.loop import fit
from raycls.training.presets import preset

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True, scope="session")
def _no_ray() -> Iterator[None]:
    """A test that starts Ray belongs to tests/integration."""
    yield
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), (
        "a unit test has started Ray: move it to tests/integration"
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A red class and a blue one, five distinct PNGs each."""
    for name, channel in (("red", 0), ("blue", 2)):
        (tmp_path / name).mkdir()
        for index in range(5):
            colour = [index, index, index]
            colour[channel] = 255
            Image.new("RGB", (8, 8), tuple(colour)).save(tmp_path / name / f"{index}.png")
    return tmp_path


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start a server on a free port of loopback, in a thread; gives the URL of its /predict."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runners = []

    async def start(predict: Handler, metrics: Handler | None) -> str:
        app = web.Application()
        app.router.add_post("/predict", predict)
        if metrics:
            app.router.add_get("/metrics", metrics)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=5)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/predict"

    def served(predict: Handler, metrics: Handler | None = None) -> str:
        return asyncio.run_coroutine_threadsafe(start(predict, metrics), loop).result()

    yield served
    for runner in runners:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="session")
def digits(digits_home: Path) -> PackedDataset:
    return open_dataset("digits")


@pytest.fixture(scope="session")
def directory(digits: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint directory of a small fastcnn."""
    path = tmp_path_factory.mktemp("checkpoint")
    config = override(preset("smoke", digits.info), ["epochs=4"])
    fit(config, digits, on_epoch=lambda metrics, snapshot: snapshot.save(path))
    return path


@pytest.fixture(scope="session")
def quantized(directory: Path, digits: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of that directory with the graph of the engine `openvino-int8`."""
    path = tmp_path_factory.mktemp("quantized") / "checkpoint"
    shutil.copytree(directory, path)
    openvino_int8.make(path, digits.images("train")[:256], path / INT8_FOLDER)
    return path


@pytest.fixture(scope="session")
def predictor(digits: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A cnn that recognises most digits, computed in float32."""
    path = tmp_path_factory.mktemp("checkpoint")
    config = override(preset("smoke", digits.info, "cnn"), ["epochs=6", "lr=0.01", "batch_size=50"])
    fit(config, digits, on_epoch=lambda metrics, snapshot: snapshot.save(path))
    return Predictor.load(path, device="cpu", engine="reference")
