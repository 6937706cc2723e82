"""One temperature: fitted on val, kept in the card, and changing confidences alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raycls.data.packed import PackedDataset
from raycls.engines.predictor import Predictor
from raycls.training.calibration import LEAST_IMAGES, RANGE, calibrated, temperature
from raycls.training.evaluation import evaluate


def _drawn(count: int, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that are drawn with their probabilities: at temperature 1, they are calibrated."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("wrong", [0.25, 1.0, 4.0])
def test_the_fit_undoes_a_wrong_temperature(wrong: float) -> None:
    logits, labels = _drawn(20_000)
    assert temperature(logits * wrong, labels) == pytest.approx(wrong, rel=0.03)


def test_no_other_temperature_has_a_lower_loss() -> None:
    logits, labels = _drawn(500)
    fitted = temperature(3 * logits, labels)
    losses = [F.cross_entropy(3 * logits / (fitted * factor), labels) for factor in (0.8, 1.0, 1.25)]
    assert min(losses) == losses[1]


def test_a_split_without_a_mistake_does_not_make_certainties() -> None:
    labels = torch.arange(200) % 4
    logits = 3 * F.one_hot(labels, 4).float()
    fitted = temperature(logits, labels)
    confidence = (logits / fitted).softmax(1).max(1).values
    assert RANGE[0] < fitted
    assert 0.99 < confidence.mean() < 0.999  # about as often wrong as once in 201


def test_what_label_smoothing_does_is_corrected(directory: Path, digits: PackedDataset) -> None:
    raw = Predictor.load(directory, engine="reference")
    predictor, found = calibrated(raw, digits)
    assert 0 < predictor.card.temperature < 1  # smoothing makes a network too cautious
    assert found["val_calibration_error"] < found["val_calibration_error_before"] / 2
    before, after = (evaluate(each, digits, "test") for each in (raw, predictor))
    assert np.array_equal(before.confusion, after.confusion)
    assert after.loss < before.loss
    assert after.metrics("test")["test_calibration_error"] < before.calibration_error / 2
    assert evaluate(predictor, digits, "val").loss == pytest.approx(found["val_loss"], abs=1e-6)
    # A second calibration begins at temperature 1 again.
    assert calibrated(predictor, digits)[1] == found


def test_few_images_calibrate_nothing(
    directory: Path,
    digits: PackedDataset,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, images = PackedDataset.labels, PackedDataset.images
    monkeypatch.setattr(PackedDataset, "labels", lambda self, split: labels(self, split)[: LEAST_IMAGES - 1])
    monkeypatch.setattr(PackedDataset, "images", lambda self, split: images(self, split)[: LEAST_IMAGES - 1])
    predictor, found = calibrated(Predictor.load(directory, engine="reference"), digits)
    assert predictor.card.temperature == 1
    assert found["val_calibration_error"] == found["val_calibration_error_before"]
    assert "that takes 50 validation images, there are 49" in capsys.readouterr().err
