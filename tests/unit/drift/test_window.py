"""The sums of a window: the same for any batches, threads and replicas."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from raycls.drift.reference import make
from raycls.drift.window import Window, WindowSums
from tests.unit.drift.pictures import batch

REFERENCE = make(*batch(300, 0))


def same(one: WindowSums, other: WindowSums) -> None:
    assert (one.images, one.embedded) == (other.images, other.embedded)
    np.testing.assert_array_equal(one.classes, other.classes)
    for name, counts in one.features.items():
        np.testing.assert_array_equal(counts, other.features[name])
    np.testing.assert_allclose(one.fourier, other.fourier, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_the_sums_do_not_depend_on_batches(size: int) -> None:
    arrays = batch(150, 1)
    whole, parts = Window(REFERENCE), Window(REFERENCE)
    whole.update(*arrays)
    for start in range(0, 150, size):
        parts.update(*(array[start : start + size] for array in arrays))
        assert parts.images == min(start + size, 150)
    same(whole.take(), parts.take())


def test_the_reference_itself_falls_into_its_own_bins() -> None:
    window = Window(REFERENCE)
    window.update(*batch(300, 0))
    sums = window.take()
    assert tuple(sums.classes) == REFERENCE.classes
    for name, bins in REFERENCE.features.items():
        assert tuple(sums.features[name]) == bins.counts
    np.testing.assert_allclose(sums.fourier / 300, REFERENCE.mean, atol=1e-5)


def test_taking_the_sums_begins_a_new_window() -> None:
    window = Window(REFERENCE)
    window.update(*batch(40, 1))
    assert window.take().images == 40
    assert window.images == 0
    same(window.take(), WindowSums.empty(REFERENCE))


def test_replicas_are_added_and_sent_as_json() -> None:
    first, second, both = (Window(REFERENCE) for _ in range(3))
    for window, seed in ((first, 1), (second, 2)):
        window.update(*batch(60, seed))
        both.update(*batch(60, seed))
    sent = WindowSums.from_json(json.loads(json.dumps(second.take().as_json())))
    same(first.take() + sent, both.take())


def test_threads_lose_nothing() -> None:
    window, alone = Window(REFERENCE), Window(REFERENCE)
    arrays = batch(50, 3)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: window.update(*arrays), range(40)))
    for _ in range(40):
        alone.update(*arrays)
    same(window.take(), alone.take())


def test_an_embedding_that_is_not_finite_is_left_out() -> None:
    probabilities, embeddings, images, sizes = batch(40, 4)
    embeddings[3], embeddings[5, 0] = np.nan, np.inf
    window = Window(REFERENCE)
    window.update(probabilities, embeddings, images, sizes)
    sums = window.take()
    assert (sums.images, sums.embedded) == (40, 38)
    assert np.isfinite(sums.fourier).all()


def test_images_of_another_size_can_follow() -> None:
    window = Window(REFERENCE)
    window.update(*batch(10, 5))
    window.update(*batch(10, 6, side=64))
    assert window.take().images == 20
