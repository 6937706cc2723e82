import numpy as np
import pytest

from raycls.data.splits import FILLED, NEW, SHARES, assign, too_few


def alone(count: int, prefix: str = "") -> np.ndarray:
    """Groups of one image each, in a random order, as digests are."""
    return np.array([f"{prefix}{number:06x}" for number in np.random.default_rng(count).permutation(count)])


def new(count: int) -> np.ndarray:
    return np.full(count, NEW)


def test_every_class_is_split_by_the_shares():
    labels = np.repeat([0, 1, 2], [100, 1000, 17])
    split = assign(labels, alone(len(labels)), new(len(labels)), SHARES)
    counts = {name: np.bincount(labels[split == i]).tolist() for i, name in enumerate(SHARES)}
    assert counts == {"train": [70, 700, 11], "val": [10, 100, 2], "gate": [10, 100, 2], "test": [10, 100, 2]}


@pytest.mark.parametrize(
    ("images", "reached"), [(1, {0}), (2, {0, 1}), (3, {0, 1, 3}), (4, {0, 1, 2, 3}), (5, {0, 1, 2, 3})]
)
def test_a_small_class_reaches_train_first_then_val_then_test_then_gate(images, reached):
    split = assign(np.zeros(images, np.int64), alone(images), new(images), SHARES)
    assert set(split) == reached


def test_a_group_is_never_divided_and_the_shares_still_come_out():
    random = np.random.default_rng(0)
    groups = random.integers(0, 60, 500).astype(str)
    labels = random.integers(0, 3, 500)
    split = assign(labels, groups, new(500), SHARES)
    for group in np.unique(groups):
        assert len(set(split[groups == group])) == 1
    assert abs((split == 0).mean() - 0.7) < 0.05
    assert set(split) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_added_an_image_keeps_its_split_and_a_group_stays_whole(seed):
    random = np.random.default_rng(seed)
    labels, groups, former = np.empty(0, np.int64), np.empty(0, str), np.empty(0, np.int64)
    for addition in (200, 20, 22, 300, 1):
        labels = np.concatenate([labels, random.integers(0, 4, addition)])
        groups = np.concatenate([groups, random.integers(0, 150, addition).astype(str)])
        former = np.concatenate([former, new(addition)])
        split = assign(labels, groups, former, SHARES)
        assert np.array_equal(split[former != NEW], former[former != NEW])
        assert all(len(set(split[groups == group])) == 1 for group in np.unique(groups))
        former = split
    assert abs((split == 0).mean() - 0.7) < 0.1


def test_the_order_of_the_images_does_not_matter():
    labels = np.random.default_rng(1).integers(0, 3, 300)
    groups = alone(300)
    first = assign(labels, groups, new(300), SHARES)
    order = np.random.default_rng(2).permutation(300)
    assert np.array_equal(assign(labels[order], groups[order], new(300), SHARES), first[order])


def test_a_filled_split_has_at_most_so_many_images():
    labels = np.arange(1000) % 4
    split = assign(labels, alone(1000), new(1000), {"train": 1 - FILLED, "val": FILLED}, most=40)
    assert np.bincount(split).tolist() == [960, 40]


def test_classes_without_an_image_in_a_split_are_named():
    labels, split = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    assert too_few(labels, split, ("cat", "dog"), ("train", "val")) == {"val": ["dog"]}


def test_images_keep_their_splits_even_where_their_group_straddles():
    former = np.array([0, 3, 0, NEW])
    split = assign(np.zeros(4, np.int64), np.array(["a", "a", "a", "b"]), former, SHARES)
    assert split[:3].tolist() == [0, 3, 0]


def test_a_split_without_a_share_stays_empty():
    shares = {"train": 0.8, "val": 0.2, "gate": 0.0, "test": 0.0}
    split = assign(np.arange(100) % 2, alone(100), new(100), shares)
    assert np.bincount(split, minlength=4).tolist() == [80, 20, 0, 0]
