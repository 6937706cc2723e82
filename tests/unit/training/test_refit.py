"""A model that learns val has no figures of val, keeps its last epoch, and is not calibrated or continued there."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.data.subsets import Subset, opened
from raycls.drift import file as drift_file
from raycls.engines.predictor import Predictor
from raycls.errors import ConfigError, UsageError
from raycls.metrics import rank
from raycls.models.card import SEEN, load_card, update_card
from raycls.training.calibration import calibrated
from raycls.training.checkpoints import CheckpointStore
from raycls.training.loop import fit
from raycls.training.presets import preset
from raycls.training.recipes import configured
from raycls.training.refit import refitted


def test_a_training_without_val_tells_none_and_its_last_epoch_is_the_best(
    digits: PackedDataset, tmp_path: Path
) -> None:
    config = override(preset("smoke", digits.info), ["epochs=3"])
    store, told = CheckpointStore(str(tmp_path), "run"), []
    with opened(digits, Subset()) as part:
        fit(
            config,
            part,
            on_epoch=lambda metrics, snapshot: (told.append(metrics), store.keep(len(told), snapshot.save)),
        )
    assert len(told) == 3
    assert not [name for metrics in told for name in metrics if name.startswith("val_")]
    best = store.best(config.training.chosen_by)
    assert best is not None
    assert best.epoch == 3
    assert max(told, key=lambda each: rank("val_loss", each))["epoch"] == 3


def test_the_epochs_are_those_of_the_earlier_run(digits: PackedDataset) -> None:
    config = override(preset("smoke", digits.info), ["epochs=12", "frozen_epochs=4"])
    assert refitted(config, kept=10) == config
    patient = refitted(override(config, ["patience=2"]), kept=3)
    training = patient.training
    assert (training.epochs, training.frozen_epochs, training.patience) == (3, 2, 0)


def test_a_probe_is_not_refitted(digits: PackedDataset) -> None:
    with pytest.raises(UsageError, match="strength of its regularisation on val"):
        refitted(override(preset("smoke", digits.info), ["probe=true"]), kept=1)


def _with_learned_val(directory: Path, folder: Path, **more: float) -> Path:
    for name in ("model.json", "model.safetensors"):
        (folder / name).write_bytes((directory / name).read_bytes())
    update_card(folder, metrics={}, learned_splits=("train", "val"), **more)
    return folder


def test_calibration_leaves_a_model_that_learned_val_as_it_is(
    directory: Path, digits: PackedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = Predictor.load(_with_learned_val(directory, tmp_path, temperature=0.6))
    predictor, found = calibrated(learned, digits)
    assert predictor.card.temperature == 0.6
    assert set(found) == {SEEN}
    told = capsys.readouterr().err
    assert "the temperature stays 0.60" in told
    assert "has learned val" in told
    again, usual = calibrated(Predictor.load(directory), digits)
    assert again.card.temperature != 1.0
    assert usual["val_accuracy"] == pytest.approx(found[SEEN])  # the same weights


def test_what_is_usual_is_measured_on_unseen_images(
    directory: Path, digits: PackedDataset, tmp_path: Path
) -> None:
    predictor = Predictor.load(_with_learned_val(directory, tmp_path))
    assert predictor.card.unseen == "test"
    usual, of_test = drift_file.write(tmp_path, Predictor.load(directory), digits), None
    of_test = drift_file.write(tmp_path, predictor, digits)
    assert usual and of_test
    assert usual.images == of_test.images == 179
    assert usual.features != of_test.features


def test_no_training_starts_from_it_where_val_would_judge(
    directory: Path, digits: PackedDataset, tmp_path: Path
) -> None:
    card = load_card(_with_learned_val(directory, tmp_path))
    with pytest.raises(ConfigError, match="start from the version that it was refitted from"):
        configured(digits.info, "smoke", init=card)
    other = digits.info.model_copy(update={"name": "other"})
    assert configured(other, "smoke", init=card).network.name == "fastcnn"  # whose val it has not seen
