"""Errors that end a run: what they leave behind, and how they are told."""

from __future__ import annotations

import pytest

from raycls.data.packed import PackedDataset
from raycls.errors import DataError
from raycls.training.failures import check_unchanged


def test_a_dataset_that_changes_under_a_run_ends_it(digits: PackedDataset) -> None:
    check_unchanged(digits)
    other = digits.manifest.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(DataError, match="changed while the run went on"):
        check_unchanged(type(digits)(digits.path, other))
