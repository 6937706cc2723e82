"""Findings: the p of each feature is right without drift, and each kind of drift alarms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from raycls.drift.examine import LEAST_IMAGES, Finding, examine
from raycls.drift.reference import Reference, make
from raycls.drift.window import Window
from tests.unit.drift.pictures import CLASSES, Batch, batch

REFERENCE = make(*batch(2000, 0))
SMALL_REFERENCES = [make(*batch(300, 10_000 + seed)) for seed in range(50)]
FEATURES = {"class", "confidence", "brightness", "contrast", "sharpness", "size", "embedding"}


def findings(given: Batch, reference: Reference = REFERENCE) -> dict[str, Finding]:
    window = Window(reference)
    window.update(*given)
    return {finding.feature: finding for finding in examine(reference, window.take())}


def test_p_is_uniform_where_nothing_drifts() -> None:
    """Windows and references of several sizes: about 5% of the p are below 5%. On bins they are larger."""
    small, other = {name: [] for name in FEATURES}, 0
    for seed in range(1, 201):
        reference = SMALL_REFERENCES[seed % 50] if seed % 2 else REFERENCE
        for name, finding in findings(batch(150 if seed % 3 else 400, seed), reference).items():
            small[name].append(finding.p < 0.05)
            other += finding.alarm
    for name, values in small.items():
        assert len(values) == 200
        assert np.mean(values) <= 0.09, name
    for name in ("class", "embedding"):
        assert np.mean(small[name]) >= 0.02, name
    assert other <= 3


def one_class(given: Batch) -> Batch:
    probabilities, *others = given
    only = np.full_like(probabilities, 0.02)
    only[:, 0] = 1 - 0.02 * (CLASSES - 1)
    return only, *others


def dark(given: Batch) -> Batch:
    probabilities, embeddings, images, sizes = given
    return probabilities, embeddings, (images * 0.5).astype(np.uint8), sizes


def noisy(given: Batch) -> Batch:
    probabilities, embeddings, images, sizes = given
    noise = np.random.default_rng(0).normal(0, 25, images.shape)
    return probabilities, embeddings, np.clip(images + noise, 0, 255).astype(np.uint8), sizes


def moved(given: Batch) -> Batch:
    probabilities, embeddings, images, sizes = given
    return probabilities, embeddings + np.float32(0.5), images, sizes


def small(given: Batch) -> Batch:
    probabilities, embeddings, images, sizes = given
    return probabilities, embeddings, images, sizes // 4


@pytest.mark.parametrize(
    ("change", "features"),
    [
        (one_class, {"class", "confidence"}),
        (dark, {"brightness", "contrast", "sharpness"}),
        (noisy, {"contrast", "sharpness"}),
        (moved, {"embedding"}),
        (small, {"size"}),
    ],
)
def test_drift_alarms_by_the_feature_that_drifts(
    change: Callable[[Batch], Batch], features: set[str]
) -> None:
    found = findings(change(batch(300, 1)))
    assert {name for name, finding in found.items() if finding.alarm} == features
    assert set(found) == FEATURES


def test_a_difference_that_is_real_but_small_does_not_alarm() -> None:
    probabilities, *others = batch(5000, 1)
    probabilities[:600] = one_class(batch(600, 1))[0]  # a share of about 30% in place of 20%
    found = findings((probabilities, *others))["class"]
    assert found.p < 1e-4
    assert 0 < found.effect < 0.1
    assert not found.alarm


def test_a_small_window_says_nothing() -> None:
    assert findings(one_class(batch(LEAST_IMAGES - 1, 1))) == {}
    assert findings(one_class(batch(LEAST_IMAGES, 1)))["class"].alarm


def test_answers_that_are_not_numbers_alarm() -> None:
    probabilities, embeddings, images, sizes = batch(200, 1)
    broken = findings((np.full_like(probabilities, np.nan), np.full_like(embeddings, np.nan), images, sizes))
    assert broken["confidence"].alarm
    assert "embedding" not in broken
