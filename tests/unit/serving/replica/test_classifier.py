"""What a replica says of its own health."""

from __future__ import annotations

import time

import pytest

from raycls.serving.replica.classifier import HUNG_S, HUNG_TIMES, Classifier


def test_a_forward_pass_that_does_not_end_is_ill() -> None:
    classifier = object.__new__(Classifier.func_or_class)  # type: ignore[attr-defined]
    classifier.full_batch_s, classifier.forward_since, classifier.core = 0.5, None, None
    classifier.check_health()
    longest = HUNG_S + HUNG_TIMES * classifier.full_batch_s
    classifier.forward_since = time.perf_counter() - longest + 8
    classifier.check_health()
    classifier.forward_since -= 9
    with pytest.raises(RuntimeError, match=r"has been running for 2\d s"):
        classifier.check_health()
