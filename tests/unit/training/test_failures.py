"""Errors that end a run: what they leave behind, and how they are told."""

from __future__ import annotations

import pytest
import torch

from raycls.data.packed import PackedDataset
from raycls.errors import DataError, TrainingError
from raycls.training.failures import check_unchanged, enough_memory


def test_a_dataset_that_changes_under_a_run_ends_it(digits: PackedDataset) -> None:
    check_unchanged(digits)
    other = digits.info.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(DataError, match="changed while the run went on"):
        check_unchanged(type(digits)(digits.path, other))


def test_a_batch_that_does_not_fit_is_told_with_a_smaller_one() -> None:
    with pytest.raises(TrainingError, match="--set batch_size=500"), enough_memory(1000):
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="shape"), enough_memory(1000):
        torch.ones(2) @ torch.ones(3, 3)
