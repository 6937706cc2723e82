"""What tests share: one Ray, one prepared dataset, one trained model per session, and homes of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raycls import registry
from raycls.training.trainer import TrainingResult


@pytest.fixture(autouse=True)
def _no_environment_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never see the developer's own cluster, server or storage."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RAYCLS_STORAGE", "RAYCLS_STUDIES", "RAYCLS_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty RAYCLS_HOME for one test."""
    path = tmp_path / "home"
    monkeypatch.setenv("RAYCLS_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with two CPUs, shared by all tests that run Ray in this process."""
    import ray

    from raycls.cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        connect(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def digits_home() -> Iterator[Path]:
    """A RAYCLS_HOME with the dataset `digits`, in force for as long as no test sets its own."""
    from raycls.data.sources import prepare

    # Not pytest's tmp_path: Ray's sockets lie below some of these paths, and their names have a length limit.
    with tempfile.TemporaryDirectory(prefix="raycls-test-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLS_HOME", folder)
        prepare("digits")
        yield Path(folder)


@pytest.fixture(scope="session")
def trained(digits_home: Path, ray_session: None) -> TrainingResult:
    """A small model of `digits`, trained under Ray Train, registered and promoted to champion."""
    from raycls.config import override, preset
    from raycls.data.packed import open_dataset
    from raycls.training.trainer import train

    config = override(preset("smoke", open_dataset("digits").manifest), ["epochs=5"])
    result = train("digits", config)
    assert result.version is not None
    version = registry.choose_engine(result.version, open_dataset("digits").images("val"))
    return replace(result, version=registry.promote(version.name, version.version))
