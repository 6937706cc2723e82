"""Runs, versions and aliases on a real MLflow over SQLite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raycls import registry, tracking
from raycls.errors import RegistryError, UnknownModelError, UsageError
from raycls.models import checkpoint
from raycls.models.card import WEIGHTS, ModelCard, provenance, sha256
from raycls.models.networks import build
from raycls.training.compare import better


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    network = build("mlp", num_classes=2, image_size=8, widths=(4,), dropout=0.0)
    card = ModelCard(
        network="mlp", arguments={"widths": [4], "dropout": 0.0}, classes=("a", "b"), image_size=8,
        mean=(0.5,) * 3, std=(0.2,) * 3, metrics={"val_accuracy": 0.5}, dataset="ab", dataset_fingerprint="f",
        config={}, seed=0, **provenance(),
    )  # fmt: skip
    checkpoint.save(tmp_path / "checkpoint", network, card)
    return tmp_path / "checkpoint"


def _register(
    saved: Path, accuracy: float, name: str = "ab", fingerprint: str = "f"
) -> registry.ModelVersion:
    metrics = {"gate_accuracy": accuracy}
    with tracking.run(name, "run", {}) as run:
        return registry.register(
            name, run, saved, fingerprint=fingerprint, metrics=metrics, lineage={"study": "s", "trial": "t"}
        )


def _promote_if_better(version: registry.ModelVersion) -> bool:
    is_better = better(version, registry.champion(version.name))
    if is_better:
        registry.promote(version.name, version.version)
    return is_better


def test_the_life_of_a_model(home: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownModelError, match="raycls tune cifar10"):
        registry.resolve()
    first = _register(saved, 0.5)
    with pytest.raises(UnknownModelError, match="raycls promote ab VERSION"):
        registry.resolve("ab")

    assert _promote_if_better(first)
    assert registry.resolve("ab").reference == "ab/1"
    assert registry.resolve("ab@champion").aliases == ("champion",)

    worse, third = _register(saved, 0.4), _register(saved, 0.6)
    assert not _promote_if_better(worse)
    assert "ab/1 stays champion" in capsys.readouterr().err
    assert _promote_if_better(third)
    assert "ab/3 replaces champion ab/1" in capsys.readouterr().err
    assert registry.resolve("ab").version == "3"

    other = _register(saved, 0.1, fingerprint="other data")
    assert not _promote_if_better(other)  # its dataset is not here, so that nothing can be compared
    said = capsys.readouterr().err
    assert "ab/3 stays champion" in said and "raycls promote ab 4" in said
    registry.promote("ab", "4")
    assert [v.version for v in registry.list_models()] == ["4", "3", "2", "1"]
    assert registry.newest("ab").reference == "ab/4"
    with pytest.raises(UnknownModelError, match="unknown model 'ba'; the models are: ab"):
        registry.newest("ba")
    assert registry.resolve("ab/2").metrics == {"gate_accuracy": 0.4}
    assert registry.resolve("ab/2").tags["trial"] == "t"

    _register(saved, 0.9, name="later")
    registry.promote("later", "1")
    assert registry.resolve().reference == "later/1"
    registry.promote("ab", "2", "challenger")
    assert registry.resolve("ab@challenger").version == "2"
    assert registry.resolve("ab").version == "4"


def test_a_checkpoint_is_verified(home: Path, saved: Path) -> None:
    version = _register(saved, 0.5)
    directory = registry.checkpoint(version)
    assert sha256(directory) == version.sha256
    weights = directory / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(RegistryError, match="was changed"):
        registry.checkpoint(version)
    shutil.rmtree(directory)
    with pytest.raises(RegistryError, match="is gone"):
        registry.checkpoint(version)


def test_an_unknown_reference_names_what_exists_and_an_alias_what_mlflow_takes(
    home: Path, saved: Path
) -> None:
    _register(saved, 0.5)
    for reference, told in (
        ("nope", "the models are: ab"),
        ("ab/9", "it has: 1"),
        ("ab@nope", "--alias nope"),
        ("ab/one", "NAME/VERSION"),
        ("", "NAME/VERSION"),
    ):
        with pytest.raises(UnknownModelError, match=told):
            registry.resolve(reference)
    for alias in ("latest", "v3", "two words"):
        with pytest.raises(UsageError, match="cannot be an alias"):
            registry.promote("ab", "1", alias)


def test_a_tracking_server_that_is_not_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI"):
        registry.resolve("any")
