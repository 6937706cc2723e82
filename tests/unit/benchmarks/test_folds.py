"""Folds share no image and no group, and a checkout is measured beside another one on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import before
from benchmarks.harness.folds import folds
from raycls.data.manifest import read_rows
from raycls.data.versions import open_dataset

CHECKOUT = Path(__file__).parents[3]


def test_each_image_is_in_one_fold_of_each_repeat_with_its_group(digits_home: Any) -> None:
    dataset = open_dataset("digits")
    groups = read_rows(dataset)["group"].to_numpy(zero_copy_only=False).astype(str)
    dealt = list(folds(dataset, 3, repeats=2))
    assert [fold.number for fold in dealt] == list(range(6))
    for repeat in (dealt[:3], dealt[3:]):
        assert sorted(np.concatenate([fold.inside for fold in repeat])) == list(range(len(groups)))
        for fold in repeat:
            assert not set(groups[fold.inside]) & set(groups[fold.outside])
    assert not np.array_equal(dealt[0].inside, dealt[3].inside)


def test_a_fold_is_a_dataset_whose_test_split_it_is(digits_home: Any) -> None:
    dataset = open_dataset("digits")
    images = np.concatenate([dataset.images(split) for split in dataset.info.counts])
    fold = next(folds(dataset, 3, repeats=1))
    with fold.dataset(validation=0.1) as part:
        assert np.array_equal(part.images("test"), images[fold.inside])
        learned = [part.images("val"), part.images("train")]
        assert np.array_equal(np.concatenate(learned), images[fold.outside])
        assert len(learned[0]) == pytest.approx(0.1 * len(fold.outside), abs=1)


def test_two_checkouts_are_measured_on_the_same_folds(digits_home: Any, tmp_path: Path) -> None:
    common = [
        "--dataset",
        "digits",
        "--preset",
        "smoke",
        "--before",
        str(CHECKOUT),
        "--output",
        str(tmp_path),
    ]
    before.main(["folds", *common, "--folds", "2", "--seeds", "1", "--set", "network.mirror=true"])
    rows = json.loads((tmp_path / "before" / "folds-digits.json").read_text())["rows"]
    assert [(row["fold"], row["arm"]) for row in rows] == [
        (0, "before"),
        (0, "this"),
        (1, "this"),
        (1, "before"),
    ]
    for own, other in (rows[:2], rows[2:]):
        assert (own["images"], own["labels"]) == (other["images"], other["labels"])
        assert len(own["predicted"]) == len(own["labels"])
    page = (tmp_path / "before.md").read_text()
    assert "| this network.mirror=true | " in page
    assert "95% interval" in page
