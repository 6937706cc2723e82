"""What a replica says of its own health."""

from __future__ import annotations

import time

import pytest

from raycls.serving.replica.inference import HUNG_S, HUNG_TIMES, Inference


def test_a_forward_pass_that_does_not_end_is_ill() -> None:
    inference = object.__new__(Inference)
    inference._full_batch_s, inference._forward_since = 0.5, None
    inference.check_health()
    longest = HUNG_S + HUNG_TIMES * inference._full_batch_s
    inference._forward_since = time.perf_counter() - longest + 8
    inference.check_health()
    inference._forward_since -= 9
    with pytest.raises(RuntimeError, match=r"has been running for 2\d s"):
        inference.check_health()
