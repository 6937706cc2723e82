"""A version whose network sees smaller images than its dataset has: filed, promoted and exported at its own size."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls import registry, tracking
from raycls.cli import run
from raycls.data.resized import at_size
from raycls.drift import file as drift_file
from raycls.engines.predictor import Predictor
from raycls.models.card import load_card
from raycls.training.filing import filed
from raycls.training.loop import fit
from raycls.training.recipes import configured
from tests.datasets import colours

SPLITS = {"train": 60, "val": 120, "gate": 40, "test": 40}


@pytest.mark.parametrize("network", ["mlp", "cnn"])  # of which the first one takes one size alone
def test_a_version_of_smaller_images_is_filed_promoted_and_exported(
    network: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = colours(48, SPLITS)
    settings = ["network.image_size=16", "widths=[8,8]", "batch_size=20", "epochs=4", "precision=fp32"]
    config = configured(dataset.info, "smoke", network=network, settings=settings)
    directory = tmp_path / "checkpoint"
    fit(config, at_size(dataset, 16), on_epoch=lambda metrics, snapshot: snapshot.save(directory))
    with tracking.run("colours", "run", tags={}) as current:
        made = filed(directory, dataset, current, "colours", {}, more={})
    assert made.metrics["test_accuracy"] == 1
    reference = drift_file.write(directory, Predictor.load(directory), dataset)
    assert reference is not None
    assert reference.images == SPLITS["val"]
    assert run(["promote", "colours", "1"]) == 0
    champion = registry.resolve("colours")
    assert load_card(registry.checkpoint(champion)).image_size == 16
    assert all(timing["accuracy"] == 1 for timing in champion.engine_timings)
    monkeypatch.chdir(tmp_path)
    assert run(["export", "colours", "--format", "onnx", "--output", "colours.onnx"]) == 0
    assert run(["evaluate", "colours", "--split", "test"]) == 0
