"""Batches of images. Requests that arrive during a forward pass form the next batch; there is no batching delay.

    batcher = Batcher(classify, limit=64, first=warm_up)
    outcomes = await batcher.put([image])         # the outcomes that `classify` returned for these images

One thread runs the batches. It takes the next one itself, without a round through the event loop, which reads and
answers at the same time. It leaves out images whose request was cancelled or whose client has left. On a CPU, a batch
takes at most half of the waiting images: with all of them in one batch, the thread would have nothing to do while their
answers are sent. Knows nothing of HTTP, images or networks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

WHOLE = 8  # waiting items up to which a batch takes all

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class ClientGone(Exception):
    """The client of a request has left, so that its items were left out."""


@dataclass(slots=True)
class _Waiting:
    item: Any
    still_wanted: Any  # () -> bool
    since: float
    future: Any  # asyncio.Future, None when its request has ended
    loop: asyncio.AbstractEventLoop


class Batcher(Generic[Item, Outcome]):
    """Calls `work(items, waited)` in one thread, with at most `limit` items and the seconds that each one waited.

    `work` returns an outcome for each item, in order. What it raises, every item of the batch raises. `first` runs in
    the thread before all batches; the constructor returns, or raises, when it is done. halve: a batch takes at most
    half of the waiting items, but at least WHOLE. Turn it off where a large batch takes hardly longer than a small one.
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
        self._thread = threading.Thread(target=self._run, args=(first, ready), name="batches", daemon=True)
        self._thread.start()
        assert self._thread.native_id is not None  # on Linux
        self.thread_id = self._thread.native_id
        if error := ready.get():
            raise error

    @property
    def is_alive(self) -> bool:
        """Whether the thread that runs the batches does so."""
        return self._thread.is_alive()

    async def put(
        self, items: Sequence[Item], still_wanted: Callable[[], bool] = lambda: True
    ) -> list[Outcome]:
        """Return the items' outcomes, in order, when their batches have run. Raises what `work` raised.

        The batches' thread calls still_wanted, which must not raise, when an item's turn comes. Raises ClientGone where
        it says no.
        """
        loop, now = asyncio.get_running_loop(), time.perf_counter()
        # Only its entry may hold a future: an exception holds this frame, and would form a cycle with the future.
        entries = [_Waiting(item, still_wanted, now, loop.create_future(), loop) for item in items]
        for entry in entries:
            self._queue.put(entry)
        try:
            # One after another: asyncio.gather makes a task for each future, which costs a lone image 15 to 30 µs.
            return [await entry.future for entry in entries]
        finally:
            for entry in entries:
                if entry.future.done() and not entry.future.cancelled():
                    entry.future.exception()  # marks it as read: asyncio would log it otherwise
                # The queue still holds cancelled entries. Their memory is freed here. The future goes first, because
                # the batches' thread leaves out an entry without a future.
                entry.future = entry.item = entry.still_wanted = None  # in this order

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
        del outcomes  # an exception holds this frame

    def _next(self) -> list[_Waiting]:
        """Return the next batch, the oldest items first. Block while none waits."""
        batch = [self._queue.get()]
        most, waiting = self._limit, 1 + self._queue.qsize()
        if self._halve and waiting > WHOLE:
            # A power of two, as engines cut other sizes into powers of two.
            most = min(most, max(WHOLE, 1 << (waiting // 2).bit_length() - 1))
        try:
            while len(batch) < most:
                batch.append(self._queue.get_nowait())
        except Empty:
            pass
        return batch


def _sorted(batch: list[_Waiting]) -> tuple[list[tuple[_Waiting, Any]], list[_Waiting]]:
    """Return the entries to work on, each with its item, and those whose client has left. Drop cancelled ones."""
    asked, left_out = [], []
    for waiting in batch:
        # In this order: a cancelled request takes the future away first.
        item, still_wanted, future = waiting.item, waiting.still_wanted, waiting.future
        if future is None or future.cancelled():
            continue
        if still_wanted():
            asked.append((waiting, item))
        else:
            left_out.append(waiting)
    return asked, left_out


def _deliver(batch: list[_Waiting], outcomes: Sequence[Any] | Exception) -> None:
    for position, waiting in enumerate(batch):
        if waiting.future is None or waiting.future.done():  # cancelled during the batch
            continue
        if isinstance(outcomes, Exception):
            waiting.future.set_exception(outcomes)
        else:
            waiting.future.set_result(outcomes[position])
