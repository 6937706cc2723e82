"""Work beside requests: one piece at a time, each begun once, and what became of it is said."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raycls.control_plane.work import MOST, Work
from raycls.errors import UsageError
from raycls.serving.replica.answer import HTTPProblem


async def _ended(work: Work, name: str) -> None:
    async with asyncio.timeout(10):
        while work.state(name, ready=False)["state"] == "making":
            await asyncio.sleep(0.005)


def test_a_piece_is_made_once_and_one_at_a_time(tmp_path: Path) -> None:
    running: list[str] = []
    most = []

    async def run(function: object, path: Path) -> None:
        running.append(path.name)
        most.append(len(running))
        await asyncio.sleep(0.02)
        path.touch()
        running.remove(path.name)

    async def tale() -> None:
        work = Work(run)
        assert work.state("one", ready=False)["state"] == "absent"
        for name in ("one", "one", "two"):
            work.begin(name, print, tmp_path / name)
        assert work.state("one", ready=False)["state"] == "making"
        assert work.state("two", ready=False)["since"]
        await _ended(work, "two")
        assert work.state("one", ready=(tmp_path / "one").exists())["state"] == "ready"

    asyncio.run(tale())
    assert most == [1, 1]


@pytest.mark.parametrize(
    ("error", "said"),
    [(UsageError("it has no gate split"), "it has no gate split"), (ValueError("x"), "its log says why")],
)
def test_a_failure_is_said_until_the_next_try(error: Exception, said: str) -> None:
    async def run(function: object) -> None:
        if not tries:
            tries.append(1)
            raise error

    tries: list[int] = []

    async def tale() -> None:
        work = Work(run)
        work.begin("one", print)
        await _ended(work, "one")
        state = work.state("one", ready=True)
        assert state["state"] == "failed"
        assert said in state["error"]
        work.begin("one", print)
        await _ended(work, "one")
        assert work.state("one", ready=True) == {"state": "ready", "since": None, "error": ""}

    asyncio.run(tale())


def test_too_many_are_refused() -> None:
    async def run(function: object) -> None:
        await asyncio.sleep(60)

    async def tale() -> None:
        work = Work(run)
        for number in range(MOST):
            work.begin(str(number), print)
        work.begin("0", print)  # under way already
        with pytest.raises(HTTPProblem) as raised:
            work.begin("one more", print)
        assert raised.value.status == 429

    asyncio.run(tale())
