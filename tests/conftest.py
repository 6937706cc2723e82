"""Provides the fixtures that tests share: empty homes, a prepared dataset, Ray, a trained model and a server.

A session fixture is created once, when the first test needs it. `tests/unit` uses neither Ray nor the server.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.epochs import AtEpoch, EpochWatch
from tests.predict import OCTETS

if TYPE_CHECKING:
    from raycls.engines.predictor import Predictor
    from raycls.serving.control.deploy import Served
    from raycls.training.filing import TrainingResult

# One thread in every process that computes, also in those that tests and Ray start. digits is too small for two. Two
# OpenMP threads wait for each other, which takes forty times as long where another process uses one of the cores.
os.environ["OMP_NUM_THREADS"] = "1"

METRICS_EXPORT_MS = (
    1000  # how often a process of the served cluster tells Ray's agent its metrics; Ray's default: 10 s
)
CONFIG = Path(__file__).parents[1] / "serve_config.yaml"


@pytest.fixture(autouse=True)
def _no_environment_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the developer's cluster, server and storage from tests, and what one test leaves there from the next.

    MLflow writes MLFLOW_TRACKING_URI into the environment, which a later session fixture would obey.
    """
    names = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RAYCLS_STORAGE", "RAYCLS_STUDIES", "RAYCLS_TOKEN")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    yield
    for name in names:
        os.environ.pop(name, None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty RAYCLS_HOME for one test."""
    path = tmp_path / "home"
    monkeypatch.setenv("RAYCLS_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def digits_home() -> Iterator[Path]:
    """Return a RAYCLS_HOME with the dataset `digits`. It is used unless a test sets its own."""
    from raycls.data.prepare import prepare

    # The paths of pytest's tmp_path are too long for Ray's sockets, which may be below this folder.
    with tempfile.TemporaryDirectory(prefix="raycls-test-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLS_HOME", folder)
        prepare("digits")
        yield Path(folder)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start a local Ray with two CPUs. All tests that run Ray in this process share it."""
    import ray

    from raycls.cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        connect(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def trained(digits_home: Path, ray_session: None) -> TrainingResult:
    """Return a small model of `digits`, trained with Ray Train, registered and promoted to champion."""
    from raycls import registry
    from raycls.config import override
    from raycls.data.versions import open_dataset
    from raycls.training.presets import preset
    from raycls.training.trainer import train

    config = override(preset("smoke", open_dataset("digits").info), ["epochs=5"])
    result = train("digits", config)
    assert result.version is not None
    version = registry.choose_engine(result.version, open_dataset("digits"))
    return replace(result, version=registry.set_alias(version.name, version.version))


@pytest.fixture
def champion(trained: TrainingResult) -> Iterator[TrainingResult]:
    """Return the session's model. After the test it is champion again, and served where it was."""
    from raycls import registry
    from raycls.serving.control import rollout

    yield trained
    version = trained.version
    assert version is not None
    now = registry.champion(version.name)
    if now is None or now.version != version.version:
        rollout.promote(version.name, version.version, force="the tests' own model")


@pytest.fixture(scope="session")
def serve_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of serve_config.yaml with limits that a test can reach."""
    path = tmp_path_factory.mktemp("serve") / "serve_config.yaml"
    limits = (
        "max_pending: 64",
        "max_images: 8",
        "max_body_bytes: 1048576",
        "body_timeout_s: 5",
        "access_log: 0.2",
    )
    content = CONFIG.read_text().replace("max_pending: 100", "\n      ".join(limits))
    path.write_text(content.replace("max_upload_bytes:", "drift_images: 150\n      max_upload_bytes:"))
    return path


@pytest.fixture(scope="session")
def served(trained: TrainingResult, serve_config: Path) -> Iterator[Served]:
    """Serve the champion on one replica. At the end, check that no process and no folder remains."""
    from raycls import cluster
    from raycls.serving.control import deploy
    from raycls.serving.control.configuration import ServeConfiguration

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", str(METRICS_EXPORT_MS))
        # By its name: without one, what another test promoted last would be served.
        configuration = ServeConfiguration.read(serve_config).pinned(model="digits", port=port, replicas=1)
        up = deploy.up(configuration, detach=True)
    running = cluster.status()
    assert running is not None
    yield up
    assert deploy.down()
    assert running.head.members() == []
    assert not Path(running.directory).exists()


@pytest.fixture(scope="session")
def predictor(trained: TrainingResult) -> Predictor:
    from raycls import registry
    from raycls.engines.predictor import Predictor

    assert trained.version is not None
    return Predictor.load(registry.checkpoint(trained.version), engine=trained.version.engine)


@pytest.fixture
def post(served: Served) -> Callable[..., requests.Response]:
    def send(data: Any = None, content_type: str | None = OCTETS, **options: Any) -> requests.Response:
        headers = options.pop("headers", {}) | ({"Content-Type": content_type} if content_type else {})
        query = options.pop("query", "")
        return requests.post(f"{served.url}/predict{query}", data, headers=headers, timeout=30, **options)

    return send


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set RAYCLS_STORAGE to a folder of this test, and return the path."""
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "storage"))
    return tmp_path / "storage"


@pytest.fixture
def at_epoch(storage: Path) -> Iterator[AtEpoch]:
    """Return a function that calls `call` in a new thread as soon as the checkpoint of an epoch appears."""
    watch = EpochWatch()
    yield watch.at_epoch
    watch.stop()
