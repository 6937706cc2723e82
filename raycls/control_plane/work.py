"""Work that takes longer than a request: each piece in a process of its own, one at a time.

    work = Work(in_a_task)
    work.begin("report of pets/3", write, "pets/3", path)
    work.state("report of pets/3", ready=path.exists())      # {"state": "making", "since": …}

A piece is named by a text. What it makes is a file, which outlives this process: who asks again after a restart finds
it ready, or begins anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request

from raycls.cluster.environment import GIVE_WAY, give_way
from raycls.errors import RayclsError
from raycls.serving.replica.answer import busy

MOST = 8  # pieces that wait or run

logger = logging.getLogger("ray.serve")


async def in_a_task(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what a function returns that is called in a Ray task on this node, at the lowest priority.

    Raises what it raises. Its process ends with it, because PyTorch would keep half a gigabyte.
    """
    import ray
    from ray.exceptions import RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(  # type: ignore[call-overload]
        num_cpus=0,
        max_retries=0,
        max_calls=1,
        runtime_env={"env_vars": {GIVE_WAY: "1"}},
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        ),
    )(_call)
    result = task.remote(function, *arguments)
    try:
        return await result
    except asyncio.CancelledError:  # its client has left
        ray.cancel(result, force=True)
        raise
    except RayTaskError as error:
        raise error.cause from None


def _call(function: Callable[..., Any], *arguments: object) -> Any:
    give_way()
    return function(*arguments)


class Work:
    """The pieces of work of this process. run: calls a function with its arguments somewhere, and waits for it."""

    def __init__(self, run: Callable[..., Awaitable[object]]):
        self._run = run
        self._turn = asyncio.Semaphore(1)
        self._tasks: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._failed: dict[str, str] = {}

    def begin(self, name: str, function: Callable[..., object], *arguments: object) -> None:
        """Begin a piece of work, unless it is under way. Raises HTTPProblem 429 where too many wait."""
        if name in self._tasks:
            return
        if len(self._tasks) >= MOST:
            raise busy("the server has much to make")
        self._failed.pop(name, None)
        task = asyncio.create_task(self._do(name, function, *arguments))
        self._tasks[name] = (time.time(), task)

    async def _do(self, name: str, function: Callable[..., object], *arguments: object) -> None:
        try:
            async with self._turn:
                await self._run(function, *arguments)
        except RayclsError as error:
            self._failed[name] = str(error)
        except Exception:  # whatever a library raises
            logger.exception("raycls could not make the %s", name)
            self._failed[name] = "the server failed on this; its log says why"
        finally:
            del self._tasks[name]

    def state(self, name: str, *, ready: bool) -> dict[str, Any]:
        """Return `state` (absent, making, ready or failed), `since` (seconds of Unix time) and `error`.

        ready: whether what it makes is there, from this time or a former one.
        """
        if name in self._tasks:
            return {"state": "making", "since": self._tasks[name][0], "error": ""}
        if error := self._failed.get(name, ""):
            return {"state": "failed", "since": None, "error": error}
        return {"state": "ready" if ready else "absent", "since": None, "error": ""}


def work_of(request: Request) -> Work:
    """Return the work of the control plane that a request reached."""
    found: Work = request.app.state.work
    return found
