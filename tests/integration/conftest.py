"""One served model for all tests that speak HTTP: the cluster of `raycls up`, as users start it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from raycls import cluster, registry
from raycls.engines.predictor import Predictor
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.deploy import Served
from raycls.training.trainer import TrainingResult
from tests.integration.predict import OCTETS

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


@pytest.fixture(scope="session")
def serve_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """serve_config.yaml with limits small enough to be reached by a test."""
    path = tmp_path_factory.mktemp("serve") / "serve_config.yaml"
    limits = (
        "max_pending: 64",
        "max_images: 8",
        "max_body_bytes: 1048576",
        "body_timeout_s: 5",
        "access_log: 0.2",
    )
    path.write_text(CONFIG.read_text().replace("max_pending: 100", "\n      ".join(limits)))
    return path


@pytest.fixture(scope="session")
def served(trained: TrainingResult, serve_config: Path) -> Iterator[Served]:
    """The champion on one replica; afterwards, nothing of it may be left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up = deploy.up(ServeConfiguration.read(serve_config).pinned(port=port, replicas=1), detach=True)
    running = cluster.status()
    assert running is not None
    yield up
    assert deploy.down()
    assert running.head.members() == []
    assert not Path(running.directory).exists()


@pytest.fixture(scope="session")
def predictor(trained: TrainingResult) -> Predictor:
    assert trained.version is not None
    return Predictor.load(registry.checkpoint(trained.version), engine=trained.version.engine)


@pytest.fixture
def post(served: Served) -> Callable[..., requests.Response]:
    def send(data: Any = None, content_type: str | None = OCTETS, **options: Any) -> requests.Response:
        headers = options.pop("headers", {}) | ({"Content-Type": content_type} if content_type else {})
        query = options.pop("query", "")
        return requests.post(f"{served.url}/predict{query}", data, headers=headers, timeout=30, **options)

    return send
