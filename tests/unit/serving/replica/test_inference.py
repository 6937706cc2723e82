"""What a replica says of its own health."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest

from raycls.data.transforms import Square
from raycls.serving.replica.batching import Batcher
from raycls.serving.replica.inference import DECODING_HUNG_S, HUNG_S, HUNG_TIMES, MOST_FAILED, Inference
from raycls.serving.settings import ServingConfig


def _inference() -> Inference:
    """One that has been constructed, as far as its health asks."""
    inference = object.__new__(Inference)
    inference._full_batch_s, inference._failed = 0.1, 0
    inference._forward_since = inference._decoding_since = None
    inference._batcher = Batcher(lambda items, waited: items, 8)
    return inference


def test_a_forward_pass_that_does_not_end_is_ill() -> None:
    inference = _inference()
    inference._full_batch_s = 0.5
    inference.check_health()
    longest = HUNG_S + HUNG_TIMES * inference._full_batch_s
    inference._forward_since = time.perf_counter() - longest + 8
    inference.check_health()
    inference._forward_since -= 9
    with pytest.raises(RuntimeError, match=r"has been running for 2\d s"):
        inference.check_health()


def test_an_image_whose_decoding_does_not_end_is_ill() -> None:
    inference = _inference()
    inference._decoding_since = time.perf_counter() - DECODING_HUNG_S + 5
    inference.check_health()
    inference._decoding_since -= 6
    with pytest.raises(RuntimeError, match="the decoding of an image has been running for 6"):
        inference.check_health()


def test_passes_that_fail_in_a_row_are_ill_and_one_that_does_not_ends_the_row() -> None:
    class Predictor:
        card = SimpleNamespace(classes=("a",))
        broken, limits = True, None

        def read_with_size(self, data: bytes, **_: object) -> Square:
            return Square(np.zeros((2, 2, 3), np.uint8), 2, 2)

        def outputs(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if self.broken:
                raise ValueError("no such kernel")
            return np.zeros((len(batch), 1), np.float32), np.zeros((len(batch), 1), np.float32)

    inference = _inference()
    inference._config = ServingConfig()
    inference.predictor, inference.drift = Predictor(), None  # type: ignore[assignment]
    inference.metrics = SimpleNamespace(batch=lambda *_: None, answers=lambda _: None)  # type: ignore[assignment]
    for _ in range(MOST_FAILED):
        inference.check_health()
        with pytest.raises(ValueError, match="kernel"):
            inference._classify([b""], [0.0])
    with pytest.raises(RuntimeError, match="the last 5 forward passes failed"):
        inference.check_health()
    Predictor.broken = False
    inference._classify([b""], [0.0])
    inference.check_health()


def test_without_its_thread_a_replica_is_ill() -> None:
    def end(items: list[int], waited: list[float]) -> list[int]:
        raise SystemExit

    inference = _inference()
    inference._batcher = batcher = Batcher(end, 8)
    inference.check_health()

    async def one() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.put([1]), 0.2)

    asyncio.run(one())
    with pytest.raises(RuntimeError, match="has ended"):
        inference.check_health()
