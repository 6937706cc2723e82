"""A model on data that is not its own: classes by name, images at its size, nothing matched by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycls.data.packed import PackedDataset
from raycls.engines.examples import match
from raycls.engines.predictor import Predictor
from raycls.errors import UsageError
from raycls.training.evaluation import Evaluation, evaluate, score
from tests.datasets import make_version


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: PackedDataset) -> Path:
    """Another home, so that what a test prepares is not seen by the others. Asks for digits first."""
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path))
    return tmp_path


def _dataset(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> PackedDataset:
    """The same images in every split."""
    splits = ("train", "val", "test")
    return make_version(
        "other", dict.fromkeys(splits, images), dict.fromkeys(splits, labels), classes, mirrorable=False
    )


def test_classes_are_matched_by_name(elsewhere: Path, digits: PackedDataset, predictor: Predictor) -> None:
    images, labels, names = digits.images("test"), digits.labels("test"), digits.info.classes
    backwards = _dataset(images, len(names) - 1 - labels, names[::-1])
    own, other = evaluate(predictor, digits, "test"), evaluate(predictor, backwards, "test")
    assert own.accuracy > 0.8
    assert other.classes == own.classes == names
    assert np.array_equal(other.confusion, own.confusion)
    assert other.loss == pytest.approx(own.loss)


def test_classes_without_a_partner_are_left_out(
    elsewhere: Path, digits: PackedDataset, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels, names = digits.images("test"), digits.labels("test"), digits.info.classes
    chosen = np.flatnonzero(np.isin(labels, (3, 5, 8)))
    renamed = np.array([{3: 2, 5: 0, 8: 1}[label] for label in labels[chosen]])
    other = _dataset(images[chosen], renamed, (names[5], "unknown", names[3]))
    examples = match(predictor.card, other, "test")
    assert examples.classes == (names[3], names[5])
    assert examples.dataset_only == ("unknown",)
    assert examples.model_only == tuple(name for name in names if name not in (names[3], names[5]))
    assert len(examples) == np.isin(labels, (3, 5)).sum()

    scores = score(predictor, examples)
    told = capsys.readouterr().err
    assert "unknown" in told
    assert f"{names[0]}, {names[1]}" in told
    kept = np.flatnonzero(np.isin(labels, (3, 5)))
    assert np.array_equal(scores.logits, predictor.logits(images[kept])[:, [3, 5]])
    assert [examples.classes[label] for label in scores.labels] == [names[label] for label in labels[kept]]
    assert scores.evaluation().confusion.sum() == len(kept)


def test_images_of_another_size_are_resized_as_preparation_does(
    elsewhere: Path, digits: PackedDataset, predictor: Predictor
) -> None:
    enlarged = digits.images("test").repeat(4, 1).repeat(4, 2)
    other = _dataset(enlarged, digits.labels("test"), digits.info.classes)
    examples = match(predictor.card, other, "test")
    assert any("32 to 8 pixels" in remark for remark in examples.remarks)
    pixels = examples.pixels(slice(0, 3))
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8, 3), np.uint8)
    assert examples.pixels(slice(0, 0)).shape == (0, 8, 8, 3)
    own = evaluate(predictor, digits, "test").accuracy
    assert evaluate(predictor, other, "test").accuracy == pytest.approx(own, abs=0.2)  # resizing blurs


def test_what_cannot_be_matched_is_refused(
    elsewhere: Path, digits: PackedDataset, predictor: Predictor
) -> None:
    names = digits.info.classes
    stranger = _dataset(digits.images("test")[:4], np.array([0, 1, 0, 1]), ("cat", names[1]))
    with pytest.raises(UsageError, match=f"cat, {names[1]}.* shares 1 class"):
        match(predictor.card, stranger, "test")
    with pytest.raises(UsageError, match="train, val, gate, test"):
        match(predictor.card, digits, "nope")


def test_another_version_of_the_dataset_is_remarked(digits: PackedDataset, predictor: Predictor) -> None:
    assert match(predictor.card, digits, "test").remarks == ()
    card = predictor.card.model_copy(update={"dataset_fingerprint": "of before"})
    assert "is another version than digits@1" in match(card, digits, "test").remarks[0]


def test_the_confusion_table_has_a_row_for_each_pair_that_occurs() -> None:
    confusion = np.zeros((10_000, 10_000), dtype=np.int64)
    confusion[3, 3], confusion[3, 9_999] = 7, 2
    names = tuple(f"c{number}" for number in range(10_000))
    evaluation = Evaluation(
        classes=names, confusion=confusion, loss=0.1, calibration_error=0.0, calibration_interval=(0.0, 0.1),
        calibration_error_before=0.0,
    )  # fmt: skip
    found = evaluation.confusion_table
    assert found == {"true": ["c3", "c3"], "predicted": ["c3", "c9999"], "images": [7, 2]}
