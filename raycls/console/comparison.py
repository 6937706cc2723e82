"""Two versions beside each other. The server takes some seconds to compare them: the page says so, and looks again.

A comparison changes nothing, so a console that starts again begins it anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from raycls.console.page import Page, part_of, render, server_of, session_of
from raycls.console.server import LONG_S, Server, ServerError
from raycls.console.session import Session
from raycls.serving.replica.answer import HTTPProblem

METRICS = ("accuracy", "macro_f1", "macro_recall", "log_loss")
AT_ONCE_S = 0.5  # how long a page waits before it says that it does
AGAIN_S = 2.0  # before the server is asked again, while it makes another comparison
# A page that is loaded after these compares again. The second is longer than making.js is patient with a failure.
KEPT_S, FAILED_KEPT_S = 60.0, 45.0
# How a page shows a verdict; the others are bad news.
LOOKS = {"better": "", "undecided": " unsure"}


@dataclass
class Comparing:
    """A comparison that was asked for. ended: seconds since 1970; None while the server compares."""

    task: asyncio.Task[dict[str, Any]]
    began: float = field(default_factory=time.time)
    ended: float | None = None

    def end(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self.ended = time.time()
        if not task.cancelled():
            task.exception()  # is seen, also where nobody asks any more

    def is_old(self) -> bool:
        if self.ended is None:
            return False
        failed = self.task.cancelled() or self.task.exception() is not None
        return time.time() - self.ended > (FAILED_KEPT_S if failed else KEPT_S)


async def compare(request: Request) -> Response:
    """Show how two versions differ on the same pictures, or that they are being compared."""
    chosen = {key: request.query_params.get(key, "") for key in ("challenger", "champion")}
    if chosen["challenger"] == chosen["champion"]:
        raise HTTPProblem(400, "a version and another one can be compared: choose two")
    name, versions = request.path_params["name"], {key: value for key, value in chosen.items() if value}
    comparing = _comparing(request, f"/models/{part_of(request, 'name')}/comparison?{urlencode(versions)}")
    await asyncio.wait([comparing.task], timeout=AT_ONCE_S)
    found = comparing.task.result() if comparing.task.done() else None
    pictures = ""
    if found:
        dataset, _, version = found["dataset"].rpartition("@")
        pictures = f"/datasets/{quote(dataset, safe='')}/{version}/pictures/{found['split']}"
    return render(
        request,
        "comparison.html",
        found=found,
        challenger=f"{name}/{chosen['challenger']}",
        champion=f"{name}/{chosen['champion']}" if chosen["champion"] else "the champion",
        name=name,
        metrics=METRICS,
        pictures=pictures,
        looks=LOOKS.get(found["verdict"], " bad") if found else "",
        at=comparing.ended or comparing.began,
    )


def _comparing(request: Request, path: str) -> Comparing:
    """Return the comparison that a path of the server names; begin it where there is none, or an old one."""
    known: dict[str, Comparing] = request.app.state.comparing
    for old in [key for key, each in known.items() if each.is_old()]:
        del known[old]
    server, session = server_of(request), session_of(request)
    assert session is not None  # the page is an admin's
    key = f"{path} {hashlib.sha256(session.token.encode()).hexdigest()}"  # nobody sees what another one asked for
    if key not in known:
        task = asyncio.create_task(_compared(server, session, path))
        known[key] = Comparing(task)
        task.add_done_callback(known[key].end)
    return known[key]


async def _compared(server: Server, session: Session | None, path: str) -> dict[str, Any]:
    """Return the server's comparison. It makes one at a time: wait for another one."""
    while True:
        try:
            found: dict[str, Any] = await server.call(session, "GET", path, timeout=LONG_S)
            return found
        except ServerError as error:
            if error.status != 429:
                raise
            await asyncio.sleep(AGAIN_S)


PAGES = [Page("GET", "/models/{name}/comparison", "admin", compare)]
