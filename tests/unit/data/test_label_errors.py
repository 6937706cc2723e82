"""Probable label errors, on predictions that are made for it."""

from __future__ import annotations

import numpy as np

from raycls.data.label_errors import label_errors


def predictions(truth: np.ndarray, classes: int, right: float, seed: int) -> np.ndarray:
    """Return probabilities, float N×C, of a model that is right in a share of cases, and surer there."""
    random = np.random.default_rng(seed)
    said = np.where(random.random(len(truth)) < right, truth, random.integers(0, classes, len(truth)))
    logits = random.normal(0, 1, (len(truth), classes))
    logits[np.arange(len(truth)), said] += np.where(said == truth, random.uniform(5, 6, len(truth)), 1)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_labels_that_were_changed_are_found() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 10, 20_000)
    labels = truth.copy()
    changed = random.permutation(len(truth))[:600]
    labels[changed] = (labels[changed] + random.integers(1, 10, 600)) % 10
    found = label_errors(labels, predictions(truth, 10, right=0.97, seed=1))
    right = np.isin(found, changed)
    assert right.sum() >= 0.7 * len(changed)
    assert right.mean() >= 0.7
    assert right[:200].mean() > right[-200:].mean()  # the most certain one first


def test_a_model_that_is_always_right_finds_nothing() -> None:
    labels = np.arange(300) % 3
    assert len(label_errors(labels, np.eye(3)[labels] * 0.7 + 0.1)) == 0


def test_a_class_without_images_is_never_likely() -> None:
    labels = np.arange(300) % 3
    labels[0] = 1
    found = label_errors(labels, predictions(np.arange(300) % 3, 4, right=1.0, seed=0))
    assert 0 in found
