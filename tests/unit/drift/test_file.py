"""The reference of a version lies in its checkpoint directory, where there were enough images to make one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from raycls.data.packed import PackedDataset
from raycls.drift import file
from raycls.engines.predictor import Predictor
from raycls.errors import CheckpointError
from raycls.models.card import DRIFT
from tests.datasets import make_version


@pytest.fixture
def checkpoint(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "checkpoint"))


def test_a_reference_is_read_as_it_was_written(checkpoint: Path, digits: PackedDataset) -> None:
    assert file.read(checkpoint) is None
    predictor = Predictor.load(checkpoint)
    written = file.write(checkpoint, predictor, digits)
    assert written is not None
    assert file.read(checkpoint) == written
    assert written.images == len(digits.images("val"))
    answers = predictor.probabilities(digits.images("val")).argmax(1)
    assert written.classes == tuple(np.bincount(answers, minlength=10).tolist())
    assert "size" in written.features


def test_few_images_give_no_reference(
    checkpoint: Path, digits: PackedDataset, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = file.LEAST_IMAGES - 1
    splits = {split: digits.images("train")[:count] for split in ("train", "val", "test")}
    labels = {split: digits.labels("train")[:count] for split in splits}
    few = make_version("few", splits, labels, digits.info.classes)
    assert file.write(checkpoint, Predictor.load(checkpoint), few) is None
    assert not (checkpoint / DRIFT).exists()
    assert "that takes 100 images of val, there are 99" in capsys.readouterr().err


def test_a_damaged_file_is_refused(checkpoint: Path) -> None:
    (checkpoint / DRIFT).write_bytes(b"{")
    with pytest.raises(CheckpointError, match="damaged"):
        file.read(checkpoint)
