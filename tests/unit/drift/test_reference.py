"""The reference: bins with equal shares, a small document, and the split that it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raycls.data.manifest import read_rows, write_table
from raycls.data.packed import ROWS
from raycls.drift.reference import BINS, Bins, Reference, count, make, of_split, original_sizes
from raycls.errors import CheckpointError
from tests.datasets import make_version
from tests.unit.drift.pictures import CLASSES, DIMENSIONS, batch


def test_bins_hold_equal_shares_and_nothing_lies_outside() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    bins = Bins.of(values)
    assert len(bins.counts) == BINS + 2
    assert (bins.counts[0], bins.counts[-1]) == (0, 0)
    assert all(abs(each - 100) <= 1 for each in bins.counts[1:-1])


def test_other_values_of_a_constant_feature_fall_into_other_bins() -> None:
    bins = Bins.of(np.full(50, 32, np.float32))
    assert bins.counts == (0, 50, 0)
    others = np.array([31.9, 32, 32.1], np.float32)
    assert count(others, np.array(bins.edges, np.float32)).tolist() == [1, 1, 1]


def test_a_reference_survives_its_document() -> None:
    reference = make(*batch(500, 0))
    text = reference.as_json()
    assert Reference.from_json(text) == reference
    assert len(text) < 40_000
    assert (reference.images, sum(reference.classes), reference.dimensions) == (500, 500, DIMENSIONS)
    assert set(reference.features) == {"confidence", "brightness", "contrast", "sharpness", "size"}


def test_a_damaged_or_newer_document_is_refused() -> None:
    reference = make(*batch(100, 0))
    with pytest.raises(CheckpointError, match=r"damaged: .*Register the version again"):
        Reference.from_json(reference.as_json()[:-20])
    newer = json.dumps({**json.loads(reference.as_json()), "format": 2})
    with pytest.raises(CheckpointError, match="format 2"):
        Reference.from_json(newer)


def test_without_sizes_there_is_no_feature_of_sizes() -> None:
    *others, _ = batch(100, 0)
    assert "size" not in make(*others, None).features


def test_the_reference_of_a_split_knows_the_sizes_before_resizing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path))
    _, _, images, _ = batch(60, 0)
    labels = np.arange(60) % 2
    splits = {"train": slice(0, 30), "val": slice(30, 50), "test": slice(50, 60)}
    dataset = make_version(
        "pets",
        {split: images[part] for split, part in splits.items()},
        {split: labels[part] for split, part in splits.items()},
        ("cat", "dog"),
    )

    def outputs(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        np.testing.assert_array_equal(pixels, images[30:50])
        return np.full((20, CLASSES), 0.2, np.float32), pixels[:, 0, :2, 0].astype(np.float32)

    assert original_sizes(dataset, "val") is None
    assert "size" not in of_split(outputs, dataset).features
    rows = read_rows(dataset)
    for side, first in (("width", 100), ("height", 200)):
        values = pa.array(np.arange(first, first + 60), pa.int32())
        rows = rows.set_column(rows.schema.get_field_index(side), side, values)
    write_table(rows, dataset.path / ROWS)
    sizes = original_sizes(dataset, "val")
    assert sizes is not None
    assert sizes.tolist() == [[130 + row, 230 + row] for row in range(20)]
    reference = of_split(outputs, dataset)
    assert reference.images == 20
    assert reference.features["size"].edges[-1] == pytest.approx((149 * 249) ** 0.5)
