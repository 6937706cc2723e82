"""Images to a challenger on the same node: the same answers come back, and only who has the key gets any."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from raycls.serving import images_socket
from raycls.serving.images_socket import LOOPBACK, Answers, Door, Peer, open_door

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


async def _classify(images: list[bytes]) -> Answers:
    """Images that begin with `x` cannot be read. `raise` raises, and `wait` takes long."""
    if b"raise" in images:
        raise ValueError("no")
    if b"wait" in images:
        await asyncio.sleep(60)
    positions = [i for i, data in enumerate(images) if not data.startswith(b"x")]
    return positions, ROWS[: len(positions)], 2 * ROWS[: len(positions)], 0.25


def test_what_the_challenger_answers_arrives() -> None:
    async def run() -> list[Answers]:
        peer = Peer(await open_door(_classify))
        calls = ([b"a", b"x", b"c" * 300_000], [b"x"], [b"", b"b"])
        found = [await peer.call(images) for images in calls]
        peer.close()
        return found

    some, none, last = asyncio.run(run())
    assert (some[0], some[3]) == ([0, 2], 0.25)
    np.testing.assert_array_equal(some[1], ROWS[:2])
    np.testing.assert_array_equal(some[2], 2 * ROWS[:2])
    assert none[0] == []
    assert last[0] == [0, 1]


def test_after_a_failure_and_after_a_call_that_was_given_up_the_next_call_gets_its_own_answer() -> None:
    async def run() -> list[list[int]]:
        peer = Peer(await open_door(_classify))
        with pytest.raises(RuntimeError, match="its log says why"):
            await peer.call([b"raise"])
        first = await peer.call([b"a"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await peer.call([b"wait", b"b", b"c"])
        second = await peer.call([b"x", b"a"])
        peer.close()
        return [first[0], second[0]]

    assert asyncio.run(run()) == [[0], [1]]


def test_without_the_key_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_socket, "KEY_S", 0.1)

    async def run() -> None:
        door = await open_door(_classify)
        with pytest.raises(EOFError):
            await Peer(Door(door.port, bytes(32))).call([b"a"])
        reader, writer = await asyncio.open_connection(LOOPBACK, door.port)
        assert await reader.read() == b"", "one that says nothing is cut off"
        writer.close()

    asyncio.run(run())


def test_a_process_that_is_gone_is_an_error_of_the_connection() -> None:
    async def run() -> None:
        gone = await asyncio.start_server(lambda *_: None, LOOPBACK, 0)
        port = gone.sockets[0].getsockname()[1]
        gone.close()
        await gone.wait_closed()
        with pytest.raises(OSError):
            await Peer(Door(port, bytes(32))).call([b"a"])

    asyncio.run(run())
