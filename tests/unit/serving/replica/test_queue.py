"""How many requests a replica holds, and how many bytes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.replica.classifier import INCOMING_LARGEST, Classifier
from raycls.serving.settings import ServingConfig

REPLICA = Classifier.func_or_class
CONFIG = ServingConfig(max_pending=3, max_body_bytes=1024)
MOST = INCOMING_LARGEST * 1024


@pytest.mark.parametrize(
    ("pending", "pending_bytes", "size", "said"),
    [
        (2, 0, 1024, None),
        (3, 0, 1, "the queue is full"),
        (2, MOST - 1024, 1024, None),
        (2, MOST - 1023, 1024, "too large together"),
        (2, MOST, 0, None),
    ],
)
def test_too_many_and_too_large_bodies_are_told_to_come_back(
    pending: int, pending_bytes: int, size: int, said: str | None
) -> None:
    replica = SimpleNamespace(pending=pending, pending_bytes=pending_bytes, config=CONFIG)
    if said is None:
        REPLICA._check_queue(replica, size)
        return
    with pytest.raises(HTTPProblem, match=said) as raised:
        REPLICA._check_queue(replica, size)
    assert raised.value.status == 429
    assert raised.value.headers["Retry-After"]
