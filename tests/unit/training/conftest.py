"""A model of digits for the tests of what evaluates and explains models."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.config import override, preset
from raycls.data.packed import PackedDataset, open_dataset
from raycls.models.predictor import Predictor
from raycls.training.loop import fit


@pytest.fixture
def digits(digits_home: Path) -> PackedDataset:
    return open_dataset("digits")


@pytest.fixture(scope="session")
def predictor(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A cnn that recognises most digits, computed in float32."""
    directory = tmp_path_factory.mktemp("checkpoint")
    dataset = open_dataset("digits")
    config = override(preset("smoke", dataset.manifest, "cnn"), ["epochs=6", "lr=0.01", "batch_size=50"])
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(directory))
    return Predictor.load(directory, device="cpu", engine="reference")
