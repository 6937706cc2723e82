"""The way to the challenger's deployment: images of many requests travel in one call.

    link = ChallengerLink(call, answering=Answering("7", ("cat", "dog")), most_images=64)
    predictions = await link.run([encoded])         # raises ChallengerError

A call costs time of both processes, whatever it carries. While one is under way, images wait and travel together in the
next one, as they do on the way to a forward pass. Where several travelled together, the next call also waits until
GATHER_S after the start of the one before: fewer calls leave the cores to the answers.
raycls/serving/replica/challenger_calls.py makes the calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from raycls.engines.predictor import Prediction, predictions_of
from raycls.serving.images_socket import Classify
from raycls.serving.replica.arm_counts import FAULTS

GATHER_S = 0.02  # between the starts of two calls, where many images come
DEADLINE_S = 1.0  # from a request's turn to the challenger's answer; then the champion answers
MOST_WAITING = 256  # images

# The probabilities and the embedding of one image, and the seconds that the challenger took for it.
Row = tuple[np.ndarray, np.ndarray, float]


class ChallengerError(Exception):
    """The challenger does not answer. kind: `late`, `raised`, `not_finite`, `behind`, or `unreadable` for the image."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind

    @property
    def is_failure(self) -> bool:
        """Whether it is the challenger's fault."""
        return self.kind in FAULTS


class Answering(NamedTuple):
    """A challenger: its version, as answers name it, its classes in the order of the probabilities, and the limits of
    its `Rejection`."""

    version: str
    classes: tuple[str, ...]
    limits: np.ndarray | None = None


class ChallengerLink:
    """Calls `call(images)`, one call at a time. hang_up: what to do when no more calls come."""

    def __init__(
        self,
        call: Classify,
        *,
        answering: Answering,
        most_images: int,
        hang_up: Callable[[], None] = lambda: None,
    ):
        self.version, self.classes, self._limits = answering
        self._call, self._most, self._hang_up = call, most_images, hang_up
        self._waiting: deque[tuple[bytes, asyncio.Future[Row]]] = deque()
        self._call_under_way: asyncio.Task[None] | None = None
        self._pauses = False  # until _not_before
        self._not_before = 0.0  # of the next call, seconds of the event loop's clock

    async def run(self, images: Sequence[bytes]) -> tuple[list[Prediction], float]:
        """Return a prediction for each image, in order, and the challenger's own time for them, seconds.

        The way there and back is not in it, so that it compares with the champion's. Raises ChallengerError after
        DEADLINE_S, or before.
        """
        if len(self._waiting) + len(images) > MOST_WAITING:
            raise ChallengerError("behind")
        loop = asyncio.get_running_loop()
        entries = [(data, loop.create_future()) for data in images]
        self._waiting.extend(entries)
        self._start()
        futures = [future for _, future in entries]
        try:
            async with asyncio.timeout(DEADLINE_S):
                rows = [await future for future in futures]
        except TimeoutError:
            raise ChallengerError("late") from None
        finally:
            for future in futures:
                if future.done() and not future.cancelled():
                    future.exception()  # marks it as read
                future.cancel()
        probabilities, embeddings, seconds = zip(*rows, strict=True)
        predictions = predictions_of(
            np.stack(probabilities), np.stack(embeddings), self.classes, self._limits
        )
        return predictions, max(seconds)

    def _start(self) -> None:
        """Begin the next call, where images wait and none is under way."""
        loop = asyncio.get_running_loop()
        if self._call_under_way or self._pauses or not self._waiting:
            return
        if (pause := self._not_before - loop.time()) > 0:
            self._pauses = True
            loop.call_later(pause, self._resume)
            return
        batch: list[tuple[bytes, asyncio.Future[Row]]] = []
        while self._waiting and len(batch) < self._most:
            entry = self._waiting.popleft()
            if not entry[1].done():  # its request has waited too long
                batch.append(entry)
        if batch:
            self._not_before = loop.time() + GATHER_S if len(batch) > 1 else 0.0
            self._call_under_way = asyncio.create_task(self._one_call(batch))
            self._call_under_way.add_done_callback(self._ended)

    def _resume(self) -> None:
        self._pauses = False
        self._start()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._call_under_way = None
        self._start()

    async def _one_call(self, batch: list[tuple[bytes, asyncio.Future[Row]]]) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                readable, probabilities, embeddings, seconds = await self._call([data for data, _ in batch])
        except Exception as error:  # whatever the challenger or Ray raises
            kind = "late" if isinstance(error, TimeoutError) else "raised"
            for _, future in batch:
                if not future.done():
                    future.set_exception(ChallengerError(kind))
            return
        rows = {
            position: (row, embedding, seconds)
            for position, row, embedding in zip(readable, probabilities, embeddings, strict=True)
        }
        for position, (_, future) in enumerate(batch):
            if future.done():
                continue
            row = rows.get(position)
            if row is None:
                future.set_exception(ChallengerError("unreadable"))
            elif not np.isfinite(row[0]).all():
                future.set_exception(ChallengerError("not_finite"))
            else:
                future.set_result(row)

    def close(self) -> None:
        if self._call_under_way:
            self._call_under_way.cancel()
        self._hang_up()
