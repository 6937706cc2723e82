"""The way to the challenger's deployment: images of many requests travel in one call.

    link = await connect("a1b2c3d4", most_images=64)
    predictions = await link.run([encoded])         # raises ChallengerError

A call of a Serve handle costs about a millisecond of both processes, whatever it carries. While two calls are under
way, images wait and travel together in the next one, as they do on the way to a forward pass.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from ray import serve

from raycls.engines.predictor import Prediction, predictions_of
from raycls.serving.control.configuration import CHALLENGERS
from raycls.serving.replica.arm_counts import FAULTS

DEPLOYMENT = "Challenger"
CALLS = 2  # under way at the same time
DEADLINE_S = 1.0  # from a request's turn to the challenger's answer; then the champion answers
MOST_WAITING = 256  # images

Answers = tuple[list[int], np.ndarray, np.ndarray, float]  # of Challenger.classify
Call = Callable[[list[bytes]], Awaitable[Answers]]
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


class ChallengerLink:
    """Calls `call(images)`: it returns positions, probabilities (M×C) and embeddings (M×D) of the readable images, and
    how long that took there, seconds."""

    def __init__(self, call: Call, *, version: str, classes: tuple[str, ...], most_images: int):
        self.version, self.classes = version, classes
        self._call, self._most = call, most_images
        self._waiting: deque[tuple[bytes, asyncio.Future[Row]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

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
        predictions = predictions_of(np.stack(probabilities), np.stack(embeddings), self.classes)
        return predictions, max(seconds)

    def _start(self) -> None:
        while self._waiting and len(self._calls) < CALLS:
            batch: list[tuple[bytes, asyncio.Future[Row]]] = []
            while self._waiting and len(batch) < self._most:
                entry = self._waiting.popleft()
                if not entry[1].done():  # its request has waited too long
                    batch.append(entry)
            if batch:
                task = asyncio.create_task(self._one_call(batch))
                self._calls.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
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
        for task in self._calls:
            task.cancel()


async def connect(experiment: str, most_images: int) -> ChallengerLink:
    """Return a link to the challenger of an experiment, by its id. Raises ChallengerError where it does not run."""
    try:
        # The first call asks Serve's controller and waits for it.
        handle: Any = await asyncio.to_thread(
            serve.get_deployment_handle, DEPLOYMENT, CHALLENGERS + experiment
        )
        async with asyncio.timeout(DEADLINE_S * 5):
            version, classes = await handle.describe.remote()
    except Exception:  # whatever Ray raises
        raise ChallengerError("raised") from None

    async def call(images: list[bytes]) -> Answers:
        return await handle.classify.remote(images)

    return ChallengerLink(call, version=version, classes=tuple(classes), most_images=most_images)
