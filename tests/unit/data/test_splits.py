import numpy as np

from raycls.data.splits import SHARES, stratified_split


def test_every_class_is_split_by_the_shares_and_no_image_is_used_twice():
    labels = np.repeat([0, 1, 2], [100, 1000, 17])
    parts = stratified_split(labels, SHARES)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    counts = {split: np.bincount(labels[indices]).tolist() for split, indices in parts.items()}
    assert counts == {"train": [70, 700, 12], "val": [20, 200, 3], "test": [10, 100, 2]}


def test_three_images_of_a_class_reach_all_three_splits():
    parts = stratified_split(np.array([0, 0, 0, 1, 1, 1]), SHARES)
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert all(sorted(labels[indices]) == [0, 1] for indices in parts.values())


def test_the_same_labels_give_the_same_shuffled_split():
    labels = np.repeat([0, 1], 50)
    first, second = stratified_split(labels, SHARES), stratified_split(labels, SHARES)
    assert all(np.array_equal(first[split], second[split]) for split in SHARES)
    assert set(labels[first["train"]][:20]) == {0, 1}
