"""Batches form while one runs, and every item gets its own outcome."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest

from raycls.serving.replica.batching import Batcher, ClientGone


@pytest.mark.parametrize(
    ("limit", "halve", "expected"),
    [
        (8, True, [1, 8, 8, 3]),
        (64, False, [1, 19]),
        (64, True, [1, 8, 8, 3]),
        (4, True, [1, 4, 4, 4, 4, 3]),
    ],
)
def test_what_arrives_during_a_batch_is_next_and_everyone_gets_his_own(
    limit: int, halve: bool, expected: list[int]
) -> None:
    sizes, go_on, begun = [], threading.Event(), threading.Event()

    def work(items: list[int], waited: list[float]) -> list[int]:
        sizes.append(len(items))
        assert len(waited) == len(items)
        assert all(seconds >= 0 for seconds in waited)
        begun.set()
        go_on.wait(10)
        return [10 * item for item in items]

    async def main() -> list[list[int]]:
        batches = Batcher(work, limit, halve=halve)
        first = asyncio.create_task(batches.put([0]))
        await asyncio.to_thread(begun.wait, 10)
        others = [asyncio.create_task(batches.put([i])) for i in range(1, 20)]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(main()) == [[10 * i] for i in range(20)]
    assert sizes == expected


def test_of_many_that_wait_about_half_are_taken() -> None:
    """So that some are answered while others are computed."""
    sizes = []

    def work(items: list[int], waited: list[float]) -> list[int]:
        sizes.append(len(items))
        return items

    async def main() -> list[int]:
        return await Batcher(work, limit=64).put(range(100))

    assert asyncio.run(main()) == list(range(100))
    assert sum(sizes) == 100
    assert sizes[-1] <= 8
    assert all(size <= max(8, (100 - sum(sizes[:i])) // 2) for i, size in enumerate(sizes))


def test_a_cancelled_item_is_left_out() -> None:
    seen: list[str] = []
    go_on, begun = threading.Event(), threading.Event()

    def work(items: list[str], waited: list[float]) -> list[str]:
        seen.extend(items)
        begun.set()
        go_on.wait(10)
        return items

    async def main() -> None:
        batches = Batcher(work, limit=8)
        running = asyncio.create_task(batches.put(["running"]))
        await asyncio.to_thread(begun.wait, 10)
        gone, waiting = (
            asyncio.create_task(batches.put(["gone"])),
            asyncio.create_task(batches.put(["waiting"])),
        )
        await asyncio.sleep(0)
        gone.cancel()
        running.cancel()  # its batch runs already: the outcome has nobody to go to
        await asyncio.sleep(0)
        go_on.set()
        assert await waiting == ["waiting"]

    asyncio.run(main())
    assert seen == ["running", "waiting"]


class Picture:
    """Something that can be weakly referenced."""


def test_what_a_cancelled_request_sent_is_not_kept() -> None:
    go_on, begun = threading.Event(), threading.Event()

    def work(items: list[object], waited: list[float]) -> list[object]:
        begun.set()
        go_on.wait(10)
        return [None for _ in items]

    async def main() -> None:
        batches = Batcher(work, limit=8)
        running = asyncio.create_task(batches.put([0]))
        await asyncio.to_thread(begun.wait, 10)
        picture = Picture()
        kept = weakref.ref(picture)
        gone = asyncio.create_task(batches.put([picture]))
        del picture
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        del gone
        gc.collect()
        assert kept() is None  # though its batch has not begun
        go_on.set()
        await running

    asyncio.run(main())


def test_what_the_work_raises_reaches_all_of_its_batch_and_the_next_one_runs() -> None:
    go_on, begun = threading.Event(), threading.Event()

    def work(items: list[int], waited: list[float]) -> list[float]:
        begun.set()
        go_on.wait(10)
        return [1 / item for item in items]

    async def main() -> list[object]:
        batches = Batcher(work, limit=2)
        asked = [asyncio.create_task(batches.put([2]))]
        await asyncio.to_thread(begun.wait, 10)
        asked += [asyncio.create_task(batches.put([item])) for item in (0, 4, 5)]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    alone, *together, last = asyncio.run(main())
    assert alone == [0.5]
    assert [type(outcome) for outcome in together] == [ZeroDivisionError, ZeroDivisionError]
    assert last == [0.2]


def test_items_of_one_request_are_answered_in_order_over_as_many_batches_as_it_takes() -> None:
    sizes = []

    def work(items: list[int], waited: list[float]) -> list[int]:
        sizes.append(len(items))
        return [10 * item for item in items]

    async def main() -> list[int]:
        return await Batcher(work, limit=4).put(range(10))

    assert asyncio.run(main()) == [10 * i for i in range(10)]
    assert sum(sizes) == 10
    assert max(sizes) <= 4


def test_a_request_of_several_items_gets_one_error_and_nothing_of_it_is_left() -> None:
    seen, unheard = [], []
    go_on, begun = threading.Event(), threading.Event()

    def work(items: list[int], waited: list[float]) -> list[float]:
        seen.append(items)
        begun.set()
        go_on.wait(10)
        return [1 / item for item in items]

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        batches = Batcher(work, limit=2)
        running = asyncio.create_task(batches.put([9]))
        await asyncio.to_thread(begun.wait, 10)
        several = asyncio.create_task(batches.put([0, 1]))
        await asyncio.sleep(0)
        go_on.set()
        await running
        with pytest.raises(ZeroDivisionError):
            await several
        del several
        gc.collect()
        assert await batches.put([5]) == [0.2]

    asyncio.run(main())
    assert seen == [[9], [0, 1], [5]]
    assert unheard == []


def test_of_a_request_that_leaves_no_item_is_worked_on_any_more() -> None:
    seen: list[int] = []
    go_on, begun = threading.Event(), threading.Event()

    def work(items: list[int], waited: list[float]) -> list[int]:
        seen.extend(items)
        begun.set()
        go_on.wait(10)
        return items

    async def main() -> None:
        batches = Batcher(work, limit=2)
        gone = asyncio.create_task(batches.put([0, 1, 2, 3]))
        await asyncio.to_thread(begun.wait, 10)
        gone.cancel()
        await asyncio.wait([gone])
        go_on.set()
        assert await batches.put([9]) == [9]

    asyncio.run(main())
    assert seen in ([0, 1, 9], [0, 9])  # the first batch ran when it left, with what was there when it began


def test_what_nobody_wants_when_its_turn_comes_is_left_out() -> None:
    seen: list[int] = []
    go_on, begun = threading.Event(), threading.Event()
    here = True

    def work(items: list[int], waited: list[float]) -> list[int]:
        seen.extend(items)
        begun.set()
        go_on.wait(10)
        return items

    async def main() -> None:
        nonlocal here
        batches = Batcher(work, limit=8)
        running = asyncio.create_task(batches.put([0]))
        await asyncio.to_thread(begun.wait, 10)
        leaving = asyncio.create_task(batches.put([1, 2], lambda: here))
        staying = asyncio.create_task(batches.put([3], lambda: True))
        await asyncio.sleep(0)
        here = False
        go_on.set()
        assert await running == [0]
        assert await staying == [3]
        with pytest.raises(ClientGone):
            await leaving

    asyncio.run(main())
    assert seen == [0, 3]


@pytest.mark.parametrize("why", ["nobody wants it", "the work raises"])
def test_what_a_request_sent_is_freed_with_its_error(why: str) -> None:
    """At once: the collector of cycles looks seldom, and images are large."""

    def work(items: list[object], waited: list[float]) -> list[object]:
        raise MemoryError("too large")

    async def main() -> weakref.ref[Picture]:
        picture = Picture()
        kept = weakref.ref(picture)
        batches = Batcher(work, limit=8)
        with pytest.raises(ClientGone if why == "nobody wants it" else MemoryError):
            await batches.put([picture, Picture()], lambda: why == "the work raises")
        return kept

    gc.collect()
    gc.disable()
    try:
        kept = asyncio.run(main())
        deadline = time.monotonic() + 10  # the batch thread may be about to let go of it
        while kept() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert kept() is None
    finally:
        gc.enable()


def test_an_error_at_the_start_is_the_constructors() -> None:
    def first() -> None:
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        Batcher(lambda items, waited: items, limit=1, first=first)
