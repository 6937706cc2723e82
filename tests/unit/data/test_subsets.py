"""Folds hold groups whole and classes evenly, and a part of a dataset has the images that it says."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from raycls.data.packed import PackedDataset
from raycls.data.splits import folds
from raycls.data.subsets import SHAPES, Images, Subset, described, opened
from raycls.errors import DataError, UsageError
from tests.datasets import make_version

SIDE = 8


def _dataset(name: str = "parts") -> PackedDataset:
    """30 train, 10 val, 5 gate and 5 test images, each of its own colour, of two classes in turns."""
    images, labels, first = {}, {}, 0
    for split, count in {"train": 30, "val": 10, "gate": 5, "test": 5}.items():
        numbers = np.arange(first, first + count)
        images[split] = np.repeat(numbers.astype(np.uint8), SIDE * SIDE * 3).reshape(count, SIDE, SIDE, 3)
        labels[split] = numbers % 2
        first += count
    return make_version(name, images, labels, ("even", "odd"))


def _numbers(part: PackedDataset, split: str) -> list[int]:
    return np.array(part.images(split))[:, 0, 0, 0].tolist()


def test_each_fold_has_as_many_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [101, 1000, 23])
    fold = folds(labels, np.arange(len(labels)).astype(str), 5)
    counts = np.array([np.bincount(labels[fold == each]) for each in range(5)])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    assert counts.sum() == len(labels)


def test_a_person_with_pictures_of_all_classes_is_in_one_fold_and_classes_stay_even() -> None:
    random = np.random.default_rng(0)
    people, labels = random.integers(0, 40, 2000), random.integers(0, 4, 2000)
    fold = folds(labels, people.astype(str), 5)
    assert all(len(set(fold[people == person])) == 1 for person in range(40))
    shares = np.array([np.bincount(labels[fold == each]) for each in range(5)]) / np.bincount(labels)
    assert np.abs(shares - 0.2).max() < 0.04
    assert np.array_equal(fold, folds(labels, people.astype(str), 5))  # a resumed run divides the same way


def test_folds_validate_each_image_of_train_and_val_once_and_never_gate_or_test(home: Path) -> None:
    dataset, validated = _dataset(), []
    for fold in (1, 2, 3, 4):
        subset = Subset(folds=4, fold=fold)
        with opened(dataset, subset) as part:
            train, val = _numbers(part, "train"), _numbers(part, "val")
            assert part.info.counts == {"train": len(train), "val": len(val)}
            assert part.info.class_counts["val"] == (5, 5)
            assert np.array_equal(part.labels("train"), np.array(train) % 2)
            assert part.info.counts == described(dataset, subset).info.counts
            folder = part.path
        assert not folder.exists()
        assert not set(train) & set(val)
        assert set(train) | set(val) == set(range(40))
        validated += val
    assert sorted(validated) == list(range(40))


def test_a_refit_learns_train_and_val_and_validates_on_nothing(home: Path) -> None:
    with opened(_dataset(), Subset()) as part:
        assert _numbers(part, "train") == list(range(40))
        assert part.info.counts["val"] == len(part.images("val")) == len(part.labels("val")) == 0


def test_trainings_of_the_same_part_share_it_and_the_last_one_deletes_it(home: Path) -> None:
    dataset, subset = _dataset(), Subset(folds=2, fold=2)
    with opened(dataset, subset) as first:
        with opened(dataset, subset) as second:
            file = Path("train") / "images.npy"
            assert (first.path / file).samefile(second.path / file)
        assert not second.path.exists()
        assert len(_numbers(first, "train")) == 20  # it is not mapped before
        above = first.path.parent
    assert not list(above.iterdir())


def test_what_killed_processes_left_is_deleted_or_used(home: Path) -> None:
    dataset = _dataset()
    with opened(dataset, Subset()) as part:
        above, left = part.path.parent, part.path.with_name("left.tmp")
        left.mkdir()
        with opened(dataset, Subset(folds=2, fold=1)):
            assert not left.exists()
            assert part.path.exists()  # another training's
    assert not list(above.iterdir())


def test_a_part_that_an_earlier_raycls_made_is_made_anew(home: Path) -> None:
    dataset, subset = _dataset(), Subset(folds=2, fold=2)
    with opened(dataset, subset) as part:
        shared = next(path for path in part.path.parent.iterdir() if path != part.path)
        former = shared.with_name("kept")
        shutil.copytree(shared, former)
        expected = _numbers(part, "train")
    former.rename(shared)
    (shared / SHAPES).unlink()  # there was none
    with opened(dataset, subset) as part:
        assert _numbers(part, "train") == expected


def test_a_disk_without_room_for_the_shards_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE, 3)).astype(np.uint8)
    images, labels = (
        {"train": numbers[:30], "val": numbers[30:]},
        {"train": np.arange(30) % 2, "val": np.arange(10) % 2},
    )
    dataset = make_version("shards", images, labels, ("even", "odd"), store="encoded")
    size = sum(file.stat().st_size for split in images for file in (dataset.path / split).glob("shard-*"))
    for free in (size, size - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        if free == size:
            with opened(dataset, Subset()) as part:
                assert len(part.images("train")) == 40
        else:
            with (
                pytest.raises(DataError, match=r"a copy of shards@1 takes .* set RAYCLS_HOME"),
                opened(dataset, Subset()),
            ):
                pass


def test_more_folds_than_groups_are_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="40 groups of images, which 41 folds"):
        Images(_dataset()).folds(41)


@pytest.mark.parametrize(
    "wrong", [{"folds": 1, "fold": 1}, {"folds": 3}, {"fold": 1}, {"folds": 3, "fold": 4}]
)
def test_there_is_no_such_fold(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="there is no fold"):
        Subset(**wrong)
