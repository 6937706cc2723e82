"""A small trained network of `digits`, as a checkpoint directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.config import override, preset
from raycls.data.packed import PackedDataset, open_dataset
from raycls.training.loop import fit


@pytest.fixture(scope="module")
def directory(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    dataset = open_dataset("digits")
    config = override(preset("smoke", dataset.manifest), ["epochs=4"])
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(path))
    return path


@pytest.fixture(scope="module")
def digits(digits_home: Path) -> PackedDataset:
    return open_dataset("digits")
