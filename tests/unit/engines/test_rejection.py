"""Thresholds by class, and a predictor that says which of its answers are rejected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from raycls.data.packed import PackedDataset
from raycls.engines.predictor import Predictor
from raycls.engines.rejection import Rejection

COMMON = Rejection(
    precision=0.9, threshold=0.8, engine="reference", dataset="digits", images=100, answered=80, right=75
)


def test_a_class_has_its_own_limit_or_the_common_one() -> None:
    some = COMMON.model_copy(update={"by_class": {"dog": 0.95, "cow": None}})
    limits = some.limits(("cat", "dog", "cow"))
    assert limits.tolist() == [0.8, 0.95, np.inf]
    assert Rejection.model_validate_json(some.model_dump_json()) == some
    assert some.coverage == 0.8
    with pytest.raises(ValidationError):
        Rejection.model_validate(some.model_dump() | {"treshold": 0.5})


def test_answers_below_the_threshold_are_rejected_and_otherwise_the_same(
    directory: Path, digits: PackedDataset
) -> None:
    images = np.array(digits.images("test")[:100])
    plain = Predictor.load(directory, engine="reference")
    usual = plain.predictions(*plain.outputs(images))
    middle = float(np.median([each.confidence for each in usual]))
    rejection = COMMON.model_copy(update={"threshold": middle})
    rejecting = Predictor.load(directory, engine="reference", rejection=rejection)
    found = rejecting.predictions(*rejecting.outputs(images))
    assert [each.rejected for each in found] == [each.confidence < middle for each in usual]
    for before, after in zip(usual, found, strict=True):
        assert "rejected" not in before.as_json(), "answers without a threshold stay as they were"
        document = after.as_json()
        assert document.pop("rejected") is after.rejected
        assert document == before.as_json()
