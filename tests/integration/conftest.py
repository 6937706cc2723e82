"""One served model for all tests that speak HTTP: the cluster of `raycls up`, as users start it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycls import cluster
from raycls.serving import deploy
from raycls.serving.deploy import Served
from raycls.training.trainer import TrainingResult

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
    path.write_text(CONFIG.read_text().replace("max_pending: 256", "\n      ".join(limits)))
    return path


@pytest.fixture(scope="session")
def served(trained: TrainingResult, serve_config: Path) -> Iterator[Served]:
    """The champion on one replica; afterwards, nothing of it may be left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up = deploy.up(serve_config, detach=True, port=port, replicas=1)
    running = cluster.status()
    assert running is not None
    yield up
    assert deploy.down()
    assert running.head.members() == []
    assert not Path(running.directory).exists()
