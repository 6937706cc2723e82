"""What a replica sets aside: by the policy, and never more than it may hold."""

from __future__ import annotations

import numpy as np
import pytest

from raycls.engines.predictor import predictions_of
from raycls.errors import NotAnImageError
from raycls.serving.replica import captured
from raycls.serving.replica.captured import Captured, CapturePolicy

CAT, DOG = predictions_of(
    np.array([[0.9, 0.1], [0.45, 0.55]], np.float32), np.zeros((2, 3), np.float32), ("cat", "dog")
)


def test_what_the_policy_wants_is_set_aside_with_its_prediction() -> None:
    held = Captured(CapturePolicy(share=1, most_confidence=0.6))
    held.consider([b"a", b"b", b"c"], [CAT, NotAnImageError("no"), DOG], "pets/7")
    ((data, prediction),) = held.take()
    assert (data, prediction.label, prediction.model, prediction.version) == (b"c", "dog", "pets", "7")
    assert prediction.confidence == pytest.approx(0.55)
    assert held.take() == []


def test_a_replica_holds_only_so_many_pictures_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Captured(CapturePolicy(share=1))
    held.consider([b"x"] * 100, [CAT] * 100, "pets/7")
    assert len(held.take()) == captured.MOST_HELD
    monkeypatch.setattr(captured, "MOST_BYTES", 25)
    held.consider([b"x" * 10] * 5, [CAT] * 5, "pets/7")
    assert len(held.take()) == 2
    held.consider([b"x" * 10], [CAT], "pets/7")
    assert len(held.take()) == 1


def test_only_rejected_answers_are_set_aside_where_the_policy_says_so() -> None:
    held = Captured(CapturePolicy(share=1, rejected_only=True))
    unsure = DOG._replace(rejected=True)
    held.consider([b"a", b"b", b"c"], [CAT, CAT._replace(rejected=False), unsure], "pets/7")
    ((data, prediction),) = held.take()
    assert (data, prediction.rejected) == (b"c", True)
