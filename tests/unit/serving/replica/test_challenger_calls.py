"""The processes of a challenger are called in turn, and those that come and go are found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raycls.serving.images_socket import Answers, Door, open_door
from raycls.serving.replica import challenger_calls
from raycls.serving.replica.challenger_link import Answering, ChallengerError

NODE = "this-node"
CLASSES = ("cat", "dog")
HANDLE = 9  # the process that answers through the handle


def _answers(process: int, images: list[bytes]) -> Answers:
    """Every image belongs to class 0 with the number of the process as its probability."""
    rows = np.full((len(images), 2), process, np.float32)
    return list(range(len(images))), rows, rows, 0.001


class _Handle:
    """Stands for Serve's handle of a challenger: it describes `running`, and its calls are answered by HANDLE."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.classify = SimpleNamespace(remote=self._classify)

    async def _classify(self, images: list[bytes]) -> Answers:
        return _answers(HANDLE, images)

    def broadcast(self, method: str) -> SimpleNamespace:
        assert method == "describe"
        return SimpleNamespace(results=lambda **_: list(self.running))

    async def start(self, process: int, node: str = NODE) -> Door:
        async def classify(images: list[bytes]) -> Answers:
            return _answers(process, images)

        door = await open_door(classify)
        self.running.append((Answering("7", CLASSES), node, door))
        return door


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> _Handle:
    found = _Handle()
    monkeypatch.setattr(challenger_calls.serve, "get_deployment_handle", lambda *_: found)
    here = SimpleNamespace(get_node_id=lambda: NODE)
    monkeypatch.setattr(challenger_calls.ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(challenger_calls, "LOOK_S", 0.02)
    return found


def _run(handle: _Handle, tale: Callable[[Callable[[], Awaitable[int]]], Awaitable[None]]) -> None:
    """Connect to what runs, and hand the tale a function that says which process answers the next image."""

    async def run() -> None:
        await handle.start(1)
        link = await challenger_calls.connect("a1b2c3d4", most_images=8)
        assert (link.version, link.classes) == ("7", CLASSES)

        async def answered_by() -> int:
            predictions, _ = await link.run([b"image"])
            return round(predictions[0].confidence)

        try:
            await tale(answered_by)
        finally:
            link.close()

    asyncio.run(run())


async def _until(holds: Callable[[set[int]], bool], answered_by: Callable[[], Awaitable[int]]) -> None:
    async with asyncio.timeout(10):
        while not holds({await answered_by() for _ in range(6)}):
            await asyncio.sleep(0.01)


def test_processes_are_called_in_turn_as_they_come_and_go(handle: _Handle) -> None:
    async def tale(answered_by: Callable[[], Awaitable[int]]) -> None:
        assert {await answered_by() for _ in range(3)} == {1}
        await handle.start(2)
        await _until(lambda seen: seen == {1, 2}, answered_by)
        del handle.running[0]
        await _until(lambda seen: seen == {2}, answered_by)

    _run(handle, tale)


def test_where_a_process_is_gone_the_handle_answers_and_none_is_lost(handle: _Handle) -> None:
    async def tale(answered_by: Callable[[], Awaitable[int]]) -> None:
        assert await answered_by() == 1
        gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = gone.sockets[0].getsockname()[1]
        gone.close()
        handle.running = [(Answering("7", CLASSES), NODE, Door(port, bytes(32)))]
        await _until(lambda seen: seen == {HANDLE}, answered_by)

    _run(handle, tale)


def test_a_process_on_another_node_and_one_that_does_not_answer_are_not_dialled(handle: _Handle) -> None:
    async def tale(answered_by: Callable[[], Awaitable[int]]) -> None:
        await handle.start(3, node="another-node")
        handle.running[0] = RuntimeError("the actor died")
        await _until(lambda seen: seen == {HANDLE}, answered_by)

    _run(handle, tale)


def test_a_look_that_fails_leaves_what_was_found(handle: _Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tale(answered_by: Callable[[], Awaitable[int]]) -> None:
        failed = asyncio.Event()

        def fail(**_: Any) -> list[Any]:
            failed.set()
            raise RuntimeError("Serve's controller does not answer")

        monkeypatch.setattr(handle, "broadcast", lambda _: SimpleNamespace(results=fail))
        async with asyncio.timeout(10):
            while not failed.is_set():
                await asyncio.sleep(0.01)
        assert await answered_by() == 1

    _run(handle, tale)


def test_a_challenger_that_does_not_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_handle(*_: Any) -> None:
        raise RuntimeError("there is no such application")

    monkeypatch.setattr(challenger_calls.serve, "get_deployment_handle", no_handle)
    with pytest.raises(ChallengerError, match="raised"):
        asyncio.run(challenger_calls.connect("a1b2c3d4", most_images=8))
