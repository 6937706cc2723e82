"""Runs, versions and aliases on a real MLflow over SQLite."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raycls import registry, tracking
from raycls.errors import RegistryError, UnknownModelError, UsageError
from raycls.models import checkpoint
from raycls.models.card import WEIGHTS, ModelCard, provenance, sha256
from raycls.models.networks import build
from raycls.registry import listing
from raycls.training.trainer import train


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
    metrics = {"val_accuracy": accuracy}
    with tracking.run(name, "run", {}) as run:
        return registry.register(
            name, run, saved, fingerprint=fingerprint, metrics=metrics, lineage={"study": "s", "trial": "t"}
        )


def test_the_life_of_a_model(home: Path, saved: Path) -> None:
    with pytest.raises(UnknownModelError, match="raycls tune cifar10"):
        registry.resolve()
    first = _register(saved, 0.5)
    with pytest.raises(UnknownModelError, match="raycls promote ab VERSION"):
        registry.resolve("ab")

    registry.set_alias("ab", first.version)
    assert registry.resolve("ab").reference == "ab/1"
    assert registry.resolve("ab@champion").aliases == ("champion",)

    for accuracy in (0.4, 0.6, 0.1):
        _register(saved, accuracy)
    registry.set_alias("ab", "4")
    assert registry.resolve("ab").version == "4"
    assert [v.version for v in registry.list_models()] == ["4", "3", "2", "1"]
    assert registry.newest("ab").reference == "ab/4"
    with pytest.raises(UnknownModelError, match="unknown model 'ba'; the models are: ab"):
        registry.newest("ba")
    pages = [registry.page_of("ab", 2, page) for page in (1, 2, 3)]
    numbers = [([version.version for version in versions], more) for versions, more in pages]
    assert numbers == [(["4", "3"], True), (["2", "1"], False), ([], False)]
    assert pages[0][0][0].aliases == ("champion",)
    registry.set_alias("ab", "1", "tried")
    assert [version.version for version in registry.overview(2)] == ["4", "3", "1"]
    assert registry.resolve("ab/2").metrics == {"val_accuracy": 0.4}
    assert registry.resolve("ab/2").tags["trial"] == "t"

    _register(saved, 0.9, name="later")
    registry.set_alias("later", "1")
    assert registry.resolve().reference == "later/1"
    registry.set_alias("ab", "2", "challenger")
    registry.set_alias("ab", "4", "staging")
    assert registry.resolve().reference == "later/1"  # another alias is no promotion
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


def test_a_damaged_copy_of_a_checkpoint_is_made_again_and_a_damaged_original_is_not_kept(
    home: Path, saved: Path
) -> None:
    registered = _register(saved, 0.5)
    version = replace(registered, uri=f"runs:/{registered.run_id}/{tracking.CHECKPOINT}")  # as on a server
    copy = registry.checkpoint(version)
    assert copy == home / "cache" / version.sha256
    for damage in (lambda: (copy / WEIGHTS).write_bytes(b"half"), (copy / WEIGHTS).unlink):
        damage()
        assert registry.checkpoint(version) == copy
        assert sha256(copy) == version.sha256
    shutil.rmtree(copy)
    original = registry.checkpoint(registered) / WEIGHTS
    original.write_bytes(b"other")
    with pytest.raises(RegistryError, match="was changed"):
        registry.checkpoint(version)
    assert list((home / "cache").iterdir()) == []


def test_what_others_have_in_the_same_mlflow_is_neither_listed_nor_served(home: Path, saved: Path) -> None:
    own = _register(saved, 0.5)
    client = tracking.client()
    for name in ("theirs", "ab-theirs"):
        client.create_registered_model(name)
        client.create_model_version(
            name, "file:///nowhere", own.run_id, tags={"checkpoint_sha256": "../../x"}
        )
        client.set_registered_model_alias(name, "champion", "1")
    assert [version.name for version in registry.list_models()] == ["ab"]
    assert [version.name for version in registry.overview(5)] == ["ab"]
    with pytest.raises(UnknownModelError, match=r"no model is champion yet: .*`raycls promote ab 1`"):
        registry.resolve()
    for reference in ("theirs", "theirs/1", "theirs@champion"):
        with pytest.raises(UnknownModelError, match="raycls did not register theirs/1"):
            registry.resolve(reference)
    with pytest.raises(UnknownModelError, match="the models are: ab"):
        registry.page_of("theirs", 5)


def test_models_beyond_a_page_and_those_of_an_older_raycls_are_listed(
    home: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    names = ["m1", "m2", "m3", "m4", "m5"]
    for name in names:
        _register(saved, 0.5, name=name)
    tracking.client().delete_registered_model_tag("m3", listing.OWN)  # which an older raycls did not set
    assert [version.name for version in registry.list_models()] == names
    assert tracking.client().get_registered_model("m3").tags == {listing.OWN: "model"}


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", " a", "..", "a'b", "a\n", "x" * 201])
def test_a_name_that_no_model_can_have_is_refused_before_the_training(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a model"):
        registry.check_name(name)
    if name:
        with pytest.raises(UsageError, match="cannot name a model"):
            train("digits", None, model=name)  # type: ignore[arg-type]


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
            registry.set_alias("ab", "1", alias)


def test_a_tracking_server_that_is_not_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI"):
        registry.resolve("any")
