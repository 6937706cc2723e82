"""The properties of images, and the random features of embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from raycls.drift.features import FourierFeatures, measure, sample_rows, side_lengths

PINNED = [0.91681147, 0.43594608, -0.39932042]  # of two frequencies, and the sine of the first


@pytest.mark.parametrize(("side", "rows"), [(4, 4), (8, 8), (32, 8), (33, 8), (224, 8)])
def test_some_rows_stand_for_an_image(side: int, rows: int) -> None:
    images = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None, None], (2, side, side, 3))
    sampled = sample_rows(images)
    assert sampled.shape == (2, rows, side, 3)
    assert abs(float(sampled.mean()) - (side - 1) / 2) <= side / 8
    assert np.shares_memory(sampled, images)


def test_measures_are_mean_deviation_and_horizontal_step() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    brightness, contrast, sharpness = measure(images)
    exact = images.astype(float)
    np.testing.assert_allclose(brightness, exact.mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(contrast, exact.std((1, 2, 3)), rtol=1e-3)
    np.testing.assert_allclose(sharpness, np.abs(np.diff(exact, axis=2)).mean((1, 2, 3)), rtol=1e-5)


def test_a_flat_image_of_one_column_has_no_contrast() -> None:
    assert measure(np.full((1, 1, 1, 3), 77, np.uint8))[:, 0].tolist() == [77, 0, 0]


def test_the_side_is_that_of_a_square_with_the_same_area() -> None:
    sides = side_lengths(np.array([[400, 100], [60_000, 60_000]]))
    assert sides.tolist() == [200, 60_000]


def test_the_features_span_the_kernel() -> None:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(60, 8)).astype(np.float32)
    fourier = FourierFeatures.fitted(embeddings)
    features = fourier(embeddings)
    squared = ((embeddings[:, None] - embeddings[None]) ** 2).sum(2)
    kernel = np.exp(-squared / (2 * fourier.bandwidth**2))
    assert np.abs(features @ features.T - kernel).mean() < 0.06
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_the_random_directions_never_change() -> None:
    """A stored reference holds the means of exactly these features."""
    features = FourierFeatures(2, 1.0)(np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(features[0, [0, 1, 128]] * 128**0.5, PINNED, rtol=1e-5)


def test_equal_embeddings_have_a_bandwidth() -> None:
    assert FourierFeatures.fitted(np.ones((10, 3), np.float32)).bandwidth == 1.0
