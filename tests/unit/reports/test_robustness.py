"""Damage is what it says, grows with its strength, and the accuracies are those of the damaged images."""

from __future__ import annotations

import numpy as np
import pytest

from raycls.data.packed import PackedDataset
from raycls.engines.examples import match
from raycls.engines.predictor import Predictor
from raycls.reports.robustness import KINDS, damaged, robustness

NAMES = [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_stronger_is_further_from_the_image(kind, digits: PackedDataset) -> None:
    # Enlarged without smoothing: there are edges to blur, and pixels enough for a resolution to lose.
    pixels = np.array(digits.images("test")[:20]).repeat(4, 1).repeat(4, 2)
    kept = pixels.copy()
    distances = []
    for strength in kind.strengths:
        worse = damaged(pixels, kind, strength)
        assert (worse.shape, worse.dtype) == (pixels.shape, np.uint8)
        assert np.array_equal(worse, damaged(pixels, kind, strength))
        distances.append(np.abs(worse.astype(float) - pixels).mean())
    assert 0 < distances[0] < distances[1] < distances[2]
    assert np.array_equal(pixels, kept)


def test_each_kind_does_what_its_name_says(digits: PackedDataset) -> None:
    kinds = dict(zip(NAMES, KINDS, strict=True))
    grey = np.full((1, 32, 32, 3), 128, np.uint8)
    for name in ("blur", "low contrast", "low resolution"):
        assert np.abs(damaged(grey, kinds[name], kinds[name].strengths[2]).astype(int) - 128).max() <= 1
    assert damaged(grey, kinds["noise"], 0.08).std() == pytest.approx(0.08 * 255, rel=0.1)
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert damaged(stripes, kinds["blur"], 0.06).std() < 20
    assert damaged(stripes, kinds["low resolution"], 0.25).std() < 20
    assert damaged(stripes, kinds["low contrast"], 0.3).std() == pytest.approx(0.3 * stripes.std(), rel=0.02)


def test_accuracies_are_those_of_the_damaged_images(digits: PackedDataset, predictor: Predictor) -> None:
    examples = match(predictor.card, digits, "test")
    measured = robustness(predictor, examples)
    assert measured.images == len(examples)
    pixels = examples.pixels(slice(None))
    assert measured.clean == (predictor.logits(pixels).argmax(1) == examples.labels).mean()
    assert [row.name for row in measured.rows] == NAMES
    noise = measured.rows[0]
    for strength, accuracy in zip(KINDS[0].strengths, noise.accuracies, strict=True):
        answers = predictor.logits(damaged(pixels, KINDS[0], strength)).argmax(1)
        assert accuracy == (answers == examples.labels).mean()
    assert measured.rows[-1].accuracies[2] < measured.clean - 0.2  # two of eight pixels a side are left
    assert noise.settings == ("σ 4% of the range", "σ 8% of the range", "σ 16% of the range")
