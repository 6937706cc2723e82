"""Predictions by models that did not learn from the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycls.data.label_errors import label_errors
from raycls.data.packed import SPLITS, PackedDataset
from raycls.data.versions import open_dataset
from raycls.training import out_of_fold as module
from raycls.training.out_of_fold import out_of_fold
from tests.datasets import make_version


def test_changed_labels_are_found(home: Path) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 1200)
    # Noise with a stripe, whose place is the class.
    images = random.integers(0, 120, (1200, 8, 8, 3)).astype(np.uint8)
    for label in range(3):
        images[truth == label, 1 + 2 * label] += 100
    labels = truth.copy()
    changed = random.permutation(1200)[:36]
    labels[changed] = (labels[changed] + random.integers(1, 3, 36)) % 3
    places = dict(zip(SPLITS, np.split(np.arange(1200), (800, 900, 1000)), strict=True))
    dataset = make_version(
        "stripes",
        {split: images[chosen] for split, chosen in places.items()},
        {split: labels[chosen] for split, chosen in places.items()},
        ("high", "middle", "low"),
        mirrorable=True,
    )
    found = label_errors(labels, out_of_fold(dataset, "smoke", folds=3))
    assert np.isin(changed, found).mean() >= 0.6
    assert np.isin(found, changed).mean() >= 0.9


def test_no_image_and_no_group_is_predicted_by_a_model_that_learned_it(
    digits_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_dataset("digits")
    learned: list[np.ndarray] = []

    class Predictor:
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            known = {image.tobytes() for image in learned[-1]}
            seen = [image.tobytes() in known for image in images]
            return np.array([[float(each)] * 10 for each in seen], dtype=np.float32)

    def trained(config: object, dataset: PackedDataset, checkpoint: Path) -> Predictor:
        learned.append(np.array(dataset.images("train")))
        return Predictor()

    monkeypatch.setattr(module, "_trained", trained)
    assert out_of_fold(whole, "smoke", folds=4).max() == 0
    assert len(learned) == 4
