"""Thresholds that keep a precision on images that took no part, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycls.engines.examples import Examples
from raycls.errors import UsageError
from raycls.training.evaluation import Scores
from raycls.training.rejection import find, kept, least_images, lowest_confidence


def _drawn(images: int, seed: int = 0, divisor: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, the chance that the answer is right, and whether it is."""
    random = np.random.default_rng(seed)
    odds = np.abs(random.normal(2.5, 1.8, images))
    chance = 1 / (1 + np.exp(-odds * divisor))
    return 1 / (1 + np.exp(-odds)), chance, random.random(images) < chance


def _scores(confidence: np.ndarray, right: np.ndarray, predicted: np.ndarray) -> Scores:
    """Answers of a model of three classes, with these confidences of the predicted classes."""
    logits = np.full((len(right), 3), 0.0)
    logits[np.arange(len(right)), predicted] = np.log(2 * confidence / (1 - confidence))
    labels = np.where(right, predicted, (predicted + 1) % 3)
    examples = Examples(
        dataset="insects", split="val", classes=("ant", "bee", "cat"), labels=labels, columns=np.arange(3),
        model_only=(), dataset_only=(), images=np.zeros((1, 2, 2, 3), np.uint8), rows=np.arange(len(right)), size=2,
        remarks=(),
    )  # fmt: skip
    return Scores(
        examples=examples, logits=torch.from_numpy(logits), labels=torch.from_numpy(labels), temperature=1.0
    )


def test_the_precision_is_kept_on_other_images_almost_always() -> None:
    population, chance, _ = _drawn(200_000, seed=1)
    missed, found = 0, []
    for seed in range(200):
        confidence, _, right = _drawn(800, seed=seed + 2)
        limit = lowest_confidence(confidence, right, 0.95)
        if limit is not None:
            found.append(limit)
            missed += chance[population >= limit].mean() < 0.95
    assert len(found) > 180
    assert missed <= 10  # 5% of 200
    # Careful, and still of use: the true threshold answers two thirds of the images.
    assert np.median([(population >= limit).mean() for limit in found]) > 0.4


def test_a_threshold_that_only_reaches_the_precision_here_would_miss_it_elsewhere() -> None:
    """What the test of each threshold is for."""
    population, chance, _ = _drawn(200_000, seed=1)
    missed = 0
    for seed in range(100):
        confidence, _, right = _drawn(800, seed=seed + 2)
        order = np.argsort(-confidence)
        precision = np.cumsum(right[order]) / np.arange(1, 801)
        limit = confidence[order][np.flatnonzero(precision >= 0.95)[-1]]
        missed += chance[population >= limit].mean() < 0.95
    assert missed > 30


def test_overconfident_answers_are_no_reason_for_a_low_threshold() -> None:
    confidence, _, right = _drawn(3000, divisor=0.75)
    honest, _, right_honest = _drawn(3000)
    strict, usual = lowest_confidence(confidence, right, 0.9), lowest_confidence(honest, right_honest, 0.9)
    assert strict is not None
    assert usual is not None
    assert strict > usual


def test_answers_of_one_confidence_are_answered_or_rejected_together() -> None:
    confidence = np.repeat([0.99, 0.6], [400, 400])
    right = np.concatenate([np.ones(400, bool), np.arange(400) % 2 == 0])
    assert lowest_confidence(confidence, right, 0.95) == 0.99
    assert lowest_confidence(np.full(800, 0.8), np.ones(800, bool), 0.95) == 0.8


def test_a_common_threshold_rejects_what_is_less_sure() -> None:
    confidence, _, right = _drawn(3000)
    scores = _scores(confidence, right, np.arange(3000) % 3)
    rejection, few = find(scores, 0.95, engine="torch")
    assert (few, rejection.by_class, rejection.engine, rejection.images) == ({}, {}, "torch", 3000)
    answered = scores.answers()[0] >= rejection.threshold
    assert rejection.answered == answered.sum()
    assert rejection.right == right[answered].sum()
    assert 0.4 < rejection.coverage < 0.95
    assert rejection.right / rejection.answered >= 0.95
    counted = kept(scores, rejection)
    assert (counted.answered, counted.right) == (rejection.answered, rejection.right)
    assert "wished 95.00%" in counted.told


def test_by_class_each_has_its_own_and_a_rare_one_the_common_threshold() -> None:
    confidence, _, right = _drawn(3000)
    predicted = np.where(np.arange(3000) < 20, 2, np.arange(3000) % 2)
    rejection, few = find(_scores(confidence, right, predicted), 0.95, engine="torch", by_class=True)
    assert few == {"cat": 20}
    assert set(rejection.by_class) == {"ant", "bee"}
    ant, bee, cat = rejection.limits(("ant", "bee", "cat"))
    assert cat == rejection.threshold
    assert len({ant, bee, cat}) == 3


def test_a_class_that_is_never_sure_is_rejected_and_spoils_no_other() -> None:
    confidence, _, right = _drawn(3000)
    predicted = np.arange(3000) % 2
    bee = predicted == 1
    right[bee] = np.random.default_rng(5).random(bee.sum()) < 0.6  # whatever it says
    scores = _scores(confidence, right, predicted)
    with pytest.raises(UsageError, match="no confidence reaches"):
        find(scores, 0.95, engine="torch")
    rejection, few = find(scores, 0.95, engine="torch", by_class=True)
    assert (few, rejection.threshold, rejection.by_class["bee"]) == ({"cat": 0}, None, None)
    ant, *others = rejection.limits(("ant", "bee", "cat"))
    assert ant < 1
    assert others == [np.inf, np.inf]
    assert rejection.right / rejection.answered >= 0.95


@pytest.mark.parametrize("precision", [0.0, 1.0, -1, 98, float("nan")])
def test_a_precision_is_a_share(precision: float) -> None:
    with pytest.raises(UsageError, match=r"between 0 and 1, like 0\.98"):
        find(_scores(*_two(_drawn(300))), precision, engine="torch")


def test_too_few_images_are_refused_with_their_number() -> None:
    assert least_images(0.98) == 183
    with pytest.raises(UsageError, match=r"takes 183 images, and insects/val has 182"):
        find(_scores(*_two(_drawn(182))), 0.98, engine="torch")


def test_a_precision_out_of_reach_is_refused_with_what_there_is() -> None:
    confidence, _, _ = _drawn(600)
    right = np.arange(600) % 2 == 0
    with pytest.raises(UsageError, match=r"no confidence reaches a precision of 95.00%.* of all 600, 300"):
        find(_scores(confidence, right, np.zeros(600, np.int64)), 0.95, engine="torch")


def _two(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return drawn[0], drawn[2], np.zeros(len(drawn[0]), np.int64)
