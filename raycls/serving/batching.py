"""Images to batches: what arrives while one batch runs is the next one, and who comes alone waits for no company.

    batches = Batches(classify, limit=64, first=warm_up, linger_s=0.003)
    outcomes = await batches.put([image])         # of those that classify returned for a list of images

Where requests have been coming together, a batch waits a moment for as many as usual: those whose answers have just
gone out, and whose next requests are on their way. One thread runs the batches. It takes the next one itself, without a
round through the event loop, which meanwhile reads and answers; an image whose request was cancelled, or which nobody
wants any more, is left out. Knows nothing of HTTP, images or networks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

WEIGHT = 0.25  # of the newest batch in the usual number of items
ENOUGH = 16  # items: a batch of so many waits for no more, as they would hardly make it cheaper for each
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Unwanted(Exception):
    """What a request gets whose items were left out because nobody wanted them any more."""


@dataclass(slots=True)
class _Waiting:
    item: Any
    wanted: Callable[[], bool]
    since: float
    future: asyncio.Future[Any] | None
    loop: asyncio.AbstractEventLoop


class Batches(Generic[Item, Outcome]):
    """work(items, waited) is called with at most `limit` items and each one's seconds in the queue, in one thread.

    It returns an outcome for each item, in order; what it raises, every one of them gets. `first` is called in that
    thread before all else, and the constructor returns, or raises, when it has. linger_s is the most that a batch waits
    for as many items as the last ones had, or ENOUGH.
    """

    def __init__(
        self,
        work: Callable[[list[Item], list[float]], Sequence[Outcome]],
        limit: int,
        first: Callable[[], None] = lambda: None,
        linger_s: float = 0.0,
    ):
        self._work, self._limit, self._linger_s = work, limit, linger_s
        self._usual = 1.0  # items of a batch, a mean that forgets
        self._queue: SimpleQueue[_Waiting] = SimpleQueue()
        ready: SimpleQueue[Exception | None] = SimpleQueue()
        threading.Thread(target=self._run, args=(first, ready), name="batches", daemon=True).start()
        if error := ready.get():
            raise error

    async def put(self, items: Sequence[Item], wanted: Callable[[], bool] = lambda: True) -> list[Outcome]:
        """The items' outcomes, in order, once the batches that they are in have run. Raises what `work` raised.

        wanted is asked in the batches' thread when an item's turn has come; Unwanted is raised where it says no.
        Awaited one after another: `asyncio.gather`, with a task for each, takes 15 to 30 µs more for a lone image.
        """
        loop, now = asyncio.get_running_loop(), time.perf_counter()
        futures: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in items]
        entries = [
            _Waiting(item, wanted, now, future, loop) for item, future in zip(items, futures, strict=True)
        ]
        for entry in entries:
            self._queue.put(entry)
        try:
            return [await future for future in futures]
        finally:
            for entry, future in zip(entries, futures, strict=True):
                if future.done() and not future.cancelled():
                    future.exception()  # heard: asyncio would log those after the first one raised
                # The queue still holds what was cancelled. A future leads to all that its request had in memory; it
                # goes first, as the batches' thread leaves out what has none.
                entry.future = entry.item = None

    def _run(self, first: Callable[[], None], ready: SimpleQueue[Exception | None]) -> None:
        try:
            first()
        except Exception as error:
            ready.put(error)
            return
        ready.put(None)
        while True:
            self._run_one(self._next())

    def _run_one(self, batch: list[_Waiting]) -> None:
        now = time.perf_counter()
        asked, left_out = [], []
        for waiting in batch:
            item, future = waiting.item, waiting.future  # who cancels takes both away
            if future is None or future.cancelled():
                continue
            if waiting.wanted():
                asked.append((waiting, item))
            else:
                left_out.append(waiting)
        if left_out:
            batch[0].loop.call_soon_threadsafe(_deliver, left_out, Unwanted())
        if not asked:
            return
        try:
            outcomes: Sequence[Outcome] | Exception = self._work(
                [item for _, item in asked], [now - waiting.since for waiting, _ in asked]
            )
        except Exception as error:
            outcomes = error
        batch[0].loop.call_soon_threadsafe(_deliver, [waiting for waiting, _ in asked], outcomes)

    def _next(self) -> list[_Waiting]:
        """What waits, at most `limit`, and what joins it in a moment; blocks while there is nothing."""
        batch = [self._queue.get()]
        usual, end = min(ENOUGH, round(self._usual)), time.perf_counter() + self._linger_s
        try:
            while len(batch) < self._limit:
                patience = end - time.perf_counter() if len(batch) < usual else 0.0
                batch.append(self._queue.get(timeout=patience) if patience > 0 else self._queue.get_nowait())
        except Empty:
            pass
        self._usual += WEIGHT * (len(batch) - self._usual)
        return batch


def _deliver(batch: list[_Waiting], outcomes: Sequence[Any] | Exception) -> None:
    for position, waiting in enumerate(batch):
        if waiting.future is None or waiting.future.done():  # cancelled meanwhile
            continue
        if isinstance(outcomes, Exception):
            waiting.future.set_exception(outcomes)
        else:
            waiting.future.set_result(outcomes[position])
