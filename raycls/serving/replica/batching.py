"""Images to batches: what arrives while one batch runs is the next one, and nobody waits for company.

    batches = Batcher(classify, limit=64, first=warm_up)
    outcomes = await batches.put([image])         # of those that classify returned for a list of images

One thread runs the batches. It takes the next one itself, without a round through the event loop, which meanwhile reads
and answers; an image whose request was cancelled, or which nobody wants any more, is left out. Of many that wait it
takes half at most: were all in one batch, as those whose answers leave together soon are, the thread would have
nothing to do while they are answered. Knows nothing of HTTP, images or networks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

WHOLE = 8  # items: a batch of so many is not halved

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class ClientGone(Exception):
    """What a request gets whose items were left out because nobody wanted them any more."""


@dataclass(slots=True)
class _Waiting:
    item: Any
    wanted: Any  # () -> bool
    since: float
    future: Any  # asyncio.Future, None when its request has ended
    loop: asyncio.AbstractEventLoop


class Batcher(Generic[Item, Outcome]):
    """work(items, waited) is called with at most `limit` items and each one's seconds in the queue, in one thread.

    It returns an outcome for each item, in order; what it raises, every one of them gets. `first` is called in that
    thread before all else, and the constructor returns, or raises, when it has. halve: of more than WHOLE items that
    wait, at most half are taken, but no fewer than WHOLE; not where a large batch takes hardly longer than a small one.
    """

    def __init__(
        self,
        work: Callable[[list[Item], list[float]], Sequence[Outcome]],
        limit: int,
        first: Callable[[], None] = lambda: None,
        *,
        halve: bool = True,
    ):
        self._work, self._limit, self._halve = work, limit, halve
        self._queue: SimpleQueue[_Waiting] = SimpleQueue()
        ready: SimpleQueue[Exception | None] = SimpleQueue()
        thread = threading.Thread(target=self._run, args=(first, ready), name="batches", daemon=True)
        thread.start()
        assert thread.native_id is not None  # on Linux
        self.thread_id = thread.native_id
        if error := ready.get():
            raise error

    async def put(self, items: Sequence[Item], wanted: Callable[[], bool] = lambda: True) -> list[Outcome]:
        """The items' outcomes, in order, once the batches that they are in have run. Raises what `work` raised.

        wanted, which raises nothing, is asked in the batches' thread when an item's turn has come; ClientGone is raised
        where it says no.
        Awaited one after another: `asyncio.gather`, with a task for each, takes 15 to 30 µs more for a lone image.
        """
        loop, now = asyncio.get_running_loop(), time.perf_counter()
        # No local may hold a future beside its entry: an exception would, by this frame, lead back to itself.
        entries = [_Waiting(item, wanted, now, loop.create_future(), loop) for item in items]
        for entry in entries:
            self._queue.put(entry)
        try:
            return [await entry.future for entry in entries]
        finally:
            for entry in entries:
                if entry.future.done() and not entry.future.cancelled():
                    entry.future.exception()  # heard: asyncio would log those after the first one raised
                # The queue still holds what was cancelled. A future leads to all that its request had in memory; it
                # goes first, as the batches' thread leaves out what has none.
                entry.future = entry.item = entry.wanted = None  # in this order

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
        asked, left_out = _sorted(batch)
        if left_out:
            batch[0].loop.call_soon_threadsafe(_deliver, left_out, ClientGone())
        if not asked:
            return
        try:
            outcomes: Sequence[Outcome] | Exception = self._work(
                [item for _, item in asked], [now - waiting.since for waiting, _ in asked]
            )
        except Exception as error:
            outcomes = error
        batch[0].loop.call_soon_threadsafe(_deliver, [waiting for waiting, _ in asked], outcomes)
        del outcomes  # an exception leads to this frame

    def _next(self) -> list[_Waiting]:
        """Of what waits the first, at most `limit`; blocks while there is nothing."""
        batch = [self._queue.get()]
        most, waiting = self._limit, 1 + self._queue.qsize()
        if self._halve and waiting > WHOLE:
            # A power of two, as engines cut other sizes into those.
            most = min(most, max(WHOLE, 1 << (waiting // 2).bit_length() - 1))
        try:
            while len(batch) < most:
                batch.append(self._queue.get_nowait())
        except Empty:
            pass
        return batch


def _sorted(batch: list[_Waiting]) -> tuple[list[tuple[_Waiting, Any]], list[_Waiting]]:
    """Those to work on, each with its item, and those that nobody wants; without those whose request was cancelled."""
    asked, left_out = [], []
    for waiting in batch:
        item, wanted, future = waiting.item, waiting.wanted, waiting.future  # who cancels takes it first
        if future is None or future.cancelled():
            continue
        if wanted():
            asked.append((waiting, item))
        else:
            left_out.append(waiting)
    return asked, left_out


def _deliver(batch: list[_Waiting], outcomes: Sequence[Any] | Exception) -> None:
    for position, waiting in enumerate(batch):
        if waiting.future is None or waiting.future.done():  # cancelled meanwhile
            continue
        if isinstance(outcomes, Exception):
            waiting.future.set_exception(outcomes)
        else:
            waiting.future.set_result(outcomes[position])
