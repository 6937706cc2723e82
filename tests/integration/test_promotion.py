"""The gate, the history and going back, with real models of digits in a real MLflow. Nothing is served."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycls import registry, tracking
from raycls.cli import run
from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.data.prepare import prepare
from raycls.data.versions import open_dataset
from raycls.errors import RefusedError, UsageError
from raycls.models.card import SEEN
from raycls.registry import ModelVersion, gate, history
from raycls.registry.compare import compare
from raycls.registry.policy import PromotionPolicy
from raycls.serving.control import rollout
from raycls.training.loop import fit
from raycls.training.presets import preset
from tests.datasets import make_version


@pytest.fixture(scope="module")
def pets_home() -> Iterator[Path]:
    """A home with digits, and the models of it that `trained` makes."""
    torch.set_num_threads(1)  # two threads of a small network wait for each other longer than they compute
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLS_HOME", folder)
        prepare("digits")
        yield Path(folder)


@pytest.fixture(scope="module")
def checkpoints(pets_home: Path) -> dict[str, Path]:
    """The checkpoint directories of a model that knows next to nothing, and of a good one."""
    dataset = open_dataset("digits")
    return {
        "weak": _fit(dataset, pets_home / "weak", "epochs=1", "lr=0.0001"),
        "good": _fit(dataset, pets_home / "good", "epochs=6"),
    }


def _fit(dataset: PackedDataset, folder: Path, *settings: str) -> Path:
    config = override(preset("smoke", dataset.info), settings)
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(folder))
    return folder


def _register(name: str, directory: Path, metrics: dict[str, float] | None = None) -> ModelVersion:
    with tracking.run(name, "run", tags={}) as current:
        return registry.register(
            name, current, directory, fingerprint="of digits", metrics=metrics or {}, lineage={}
        )


def _promote(version: ModelVersion, **options: str) -> ModelVersion:
    return rollout.promote(version.name, version.version, **options)  # type: ignore[arg-type]


def test_the_life_of_a_champion_is_in_its_history(
    checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    weak, good, again = (_register("life", checkpoints[name]) for name in ("weak", "good", "good"))
    with pytest.raises(UsageError, match="has no former champion"):
        _promote(weak)
        rollout.rollback("life")
    assert _promote(good, by="mia").aliases == ("champion",)
    assert registry.ENGINE in registry.resolve("life").tags
    with pytest.raises(
        RefusedError, match="life/2 stays champion, life/1 is not promoted: worse, accuracy changes"
    ):
        _promote(weak)
    with pytest.raises(RefusedError, match=r"both give the same answers.*raycls promote life 3 --force"):
        _promote(again)
    assert registry.resolve("life").version == "2"
    assert _promote(good).version == "2"  # it is champion already, which is no event

    with pytest.raises(UsageError, match="needs a reason"):
        _promote(weak, force=" ")
    _promote(again, force="an exercise", by="mia")
    assert rollout.rollback("life", reason="enough").version == "2"
    assert rollout.rollback("life").version == "1"  # further back, and not forward to 3
    with pytest.raises(UsageError, match="has no former champion"):
        rollout.rollback("life")

    found = list(reversed(history.events("life")))
    assert [(event.kind, event.former, event.version) for event in found] == [
        ("first", None, "1"),
        ("promotion", "1", "2"),
        ("refusal", "2", "1"),
        ("refusal", "2", "3"),
        ("forced", "2", "3"),
        ("rollback", "3", "2"),
        ("rollback", "2", "1"),
    ]
    assert [event.by for event in found if event.by != history.own_name()] == ["mia", "mia"]
    assert (found[4].reason, found[5].reason) == ("an exercise", "enough")
    assert found[1].figures["gain"] > 0.5 and found[2].figures["gain"] < -0.5
    assert found[1].policy["metric"] == "accuracy"
    whole = tracking.client().download_artifacts(found[1].run_id, "comparison.json")
    assert json.loads(Path(whole).read_text())["verdict"] == "better"

    assert run(["models", "history", "life", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [event["kind"] for event in printed] == [event.kind for event in reversed(found)]
    assert run(["models", "history", "life"]) == 0
    assert "an exercise" in capsys.readouterr().out


def test_a_deleted_champion_is_passed_over_and_stays_in_the_history(checkpoints: dict[str, Path]) -> None:
    versions = [_register("deleted", checkpoints[name]) for name in ("weak", "good", "weak")]
    _promote(versions[0])
    _promote(versions[1])
    _promote(versions[2], force="an exercise")
    tracking.client().delete_model_version("deleted", "2")
    assert rollout.rollback("deleted").version == "1"
    assert [event.version for event in history.events("deleted")] == ["1", "3", "2", "1"]


def test_a_change_that_fails_is_no_event(checkpoints: dict[str, Path]) -> None:
    version = _register("failed", checkpoints["weak"])
    with pytest.raises(ZeroDivisionError), history.recorded("first", version, None, by=None, reason=""):
        raise ZeroDivisionError
    assert history.events("failed") == []


def test_what_cannot_be_compared_is_refused(checkpoints: dict[str, Path]) -> None:
    """The champion's dataset is not on this machine."""
    registry.set_alias(
        "elsewhere", _register("elsewhere", _edited(checkpoints["weak"], dataset="lost")).version
    )
    version = _register("elsewhere", checkpoints["good"])
    assert not gate.promote_if_better(version, PromotionPolicy(), by="study s")
    (event,) = history.events("elsewhere")
    assert (event.kind, event.by) == ("refusal", "study s")
    assert "they cannot be compared: no dataset 'lost'" in event.reason
    assert registry.resolve("elsewhere").version == "1"


def test_a_challenger_with_a_new_class_is_compared_on_the_common_ones(
    checkpoints: dict[str, Path], pets_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest version of their dataset has a class more, and its pictures are uploads."""
    old = open_dataset("digits")
    images, labels = {}, {}
    for split in old.info.counts:
        images[split] = np.concatenate([old.images(split), np.zeros((20, 8, 8, 3), np.uint8)])
        labels[split] = np.concatenate([old.labels(split), np.full(20, 10)])
    new = make_version("more", images, labels, (*old.info.classes, "blank"), source="uploads:{split}/{index}")
    challenger = _register("classes", _fit(new, pets_home / "classes", "epochs=6"))
    registry.set_alias("classes", _register("classes", _edited(checkpoints["weak"], dataset="more")).version)

    found = compare(challenger, registry.resolve("classes"))
    assert (found.dataset, found.split, found.pictures) == ("more@1", "gate", old.info.counts["gate"])
    assert [each.name for each in found.classes] == list(old.info.classes)
    assert "compared on the common classes; classes/1 alone knows blank" in found.remarks
    assert found.uploads == found.pictures and found.verdict == "undecided"  # every picture is an upload
    assert found.challenger_figures.accuracy > 0.8
    assert found.champion_figures.latency_ms > 0

    before = registry.list_models()
    assert run(["models", "compare", "classes/1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["pictures"] == found.pictures
    assert printed["challenger_figures"]["accuracy"] == found.challenger_figures.accuracy
    assert run(["models", "compare", "classes/1", "classes/2", "--set", "metric=macro_f1"]) == 0
    assert "policy: metric=macro_f1" in capsys.readouterr().out
    assert registry.list_models() == before

    with pytest.raises(RefusedError, match="does not know blank"):  # the other way round
        registry.set_alias("classes", "1")
        _promote(registry.resolve("classes/2"))


def test_an_old_dataset_without_a_gate_is_compared_on_val_which_is_said(checkpoints: dict[str, Path]) -> None:
    old = open_dataset("digits")
    splits = ("train", "val", "test")
    make_version(
        "no-gate",
        {split: old.images(split) for split in splits},
        {split: old.labels(split) for split in splits},
        old.info.classes,
    )
    weak, good = (
        _register("old", _edited(checkpoints[name], dataset="no-gate")) for name in ("weak", "good")
    )
    found = compare(good, weak)
    assert (found.split, found.verdict) == ("val", "better")
    assert any("no split gate: val is used" in remark and "optimistic" in remark for remark in found.remarks)


def test_a_model_that_learned_val_is_compared_on_gate_or_not_at_all(checkpoints: dict[str, Path]) -> None:
    learned = {"learned_splits": ("train", "val")}
    weak, good = (_register("learned", _edited(checkpoints[name], **learned)) for name in ("weak", "good"))
    found = compare(good, weak)
    assert (found.dataset, found.split, found.verdict) == ("digits@1", "gate", "better")
    old = open_dataset("digits")
    splits = ("train", "val", "test")
    make_version(
        "gateless",
        {split: old.images(split) for split in splits},
        {split: old.labels(split) for split in splits},
        old.info.classes,
    )
    usual = _register("learned", _edited(checkpoints["weak"], dataset="gateless"))
    refit = _register("learned", _edited(checkpoints["good"], dataset="gateless", **learned))
    for challenger, champion in ((refit, usual), (usual, refit)):
        with pytest.raises(UsageError, match=f"{refit.reference} learned the pictures of val"):
            compare(challenger, champion)
    registry.set_alias("learned", usual.version)
    with pytest.raises(RefusedError, match=r"cannot be compared: .* learned the pictures of val"):
        _promote(refit)


def test_a_refitted_version_that_answers_otherwise_than_when_it_was_registered_is_refused(
    checkpoints: dict[str, Path],
) -> None:
    version = _register(
        "changed", _edited(checkpoints["weak"], learned_splits=("train", "val")), {SEEN: 0.99}
    )
    with pytest.raises(RefusedError, match=r"images of val are right, not 99\.0% as registered"):
        _promote(version)


def test_pictures_that_a_challenger_of_another_dataset_learned_are_left_out(
    checkpoints: dict[str, Path],
) -> None:
    digits = open_dataset("digits")
    images = {split: digits.images(split) for split in digits.info.counts}
    labels = {split: digits.labels(split) for split in digits.info.counts}
    make_version("left", images, labels, digits.info.classes)
    learned = {
        split: np.concatenate([pixels, images["gate"][:100]]) if split == "train" else pixels
        for split, pixels in images.items()
    }
    learned_labels = labels | {"train": np.concatenate([labels["train"], labels["gate"][:100]])}
    right = make_version("right", learned, learned_labels, digits.info.classes).info
    weak = _register("learned", _edited(checkpoints["weak"], dataset="left"))
    good = _register(
        "learned",
        _edited(checkpoints["good"], dataset="right", dataset_fingerprint=right.fingerprint),
    )
    found = compare(good, weak)
    assert (found.dataset, found.pictures) == ("left@1", digits.info.counts["gate"] - 100)
    assert "100 pictures that the challenger learned are left out" in found.remarks
    # The other way round, its dataset does not have the pictures of right's gate in train or val.
    assert compare(weak, good).pictures == digits.info.counts["gate"]


def _edited(directory: Path, **changed: Any) -> Path:
    """A copy of the checkpoint directory with another card."""
    copy = Path(tempfile.mkdtemp(dir=directory.parent))
    card = json.loads((directory / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(card | changed))
    (copy / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    return copy
