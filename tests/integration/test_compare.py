"""A champion of another dataset is compared on the same images, and not by the number that it was registered with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raycls import registry, tracking
from raycls.config import override, preset
from raycls.data.packed import PackedDataset
from raycls.data.prepare import prepare
from raycls.data.versions import open_dataset
from raycls.registry import ModelVersion
from raycls.training.compare import better
from raycls.training.loop import fit
from tests.datasets import make_version


def _later_digits(digits: PackedDataset) -> PackedDataset:
    """A dataset of other images: half of each split of digits."""
    chosen = {split: np.arange(0, count, 2) for split, count in digits.info.counts.items()}
    return make_version(
        "later-digits",
        {split: digits.images(split)[indices] for split, indices in chosen.items()},
        {split: digits.labels(split)[indices] for split, indices in chosen.items()},
        digits.info.classes,
        mirrorable=False,
    )


def _trained(dataset: PackedDataset, folder: Path, epochs: int, *, registered_as: float) -> ModelVersion:
    config = override(preset("smoke", dataset.info), [f"epochs={epochs}"])
    if epochs == 1:
        config = override(config, ["lr=0.0001"])  # learns next to nothing
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(folder))
    with tracking.run("pets", "run", tags={}) as run:
        return registry.register(
            "pets",
            run,
            folder,
            fingerprint=dataset.info.fingerprint,
            metrics={"val_accuracy": registered_as},
            lineage={},
        )


def test_a_version_of_other_data_is_compared_on_its_own_validation_images(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)  # two threads of a small network wait for each other longer than they compute
    prepare("digits")
    digits = open_dataset("digits")
    champion = _trained(digits, tmp_path / "champion", 6, registered_as=0.2)
    registry.promote("pets", champion.version)
    later = _later_digits(digits)
    worse = _trained(later, tmp_path / "worse", 1, registered_as=0.99)
    assert not better(worse, registry.champion("pets"))
    said = capsys.readouterr().err
    assert "pets/1 stays champion, pets/2 is not better: accuracy 0." in said
    assert "against 0.9" in said and f"on {later.info.counts['gate']} images of later-digits@1/gate" in said

    registry.promote("pets", worse.version)
    third = _trained(digits, tmp_path / "third", 6, registered_as=0.3)
    assert better(third, registry.champion("pets"))
    assert "pets/3 replaces champion pets/2: accuracy 0.9" in capsys.readouterr().err
