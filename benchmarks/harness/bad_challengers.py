"""Challengers that go wrong, and how long an experiment with one of them lasts.

    version = register(server, "hangs")
    found = observe(server, version, "hangs", "split")      # {"seconds": 3.1, "reason": "the challenger failed …"}

What goes wrong is in the checkpoint, or is done to the challenger's process once it has answered.
"""

from __future__ import annotations

import io
import json
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import requests
from PIL import Image

from harness.broken_versions import BROKEN
from harness.served_copy import Server
from raycls import local_http
from raycls.benchmark.usage import REPLICA
from raycls.engines.predictor import Predictor
from raycls.errors import BenchmarkError
from raycls.models import checkpoint
from raycls.models.card import load_card
from raycls.registry import ModelVersion
from raycls.serving.client import manage
from raycls.serving.control.configuration import CHALLENGERS

LOAD_S = 40.0
DEADLINE_S = 5.0  # of every client
SHARES = {"shadow": 1.0, "split": 0.5}
SLOWER = 10
PERIOD_S = 0.1  # between two looks
PATIENCE_S = 60.0


def slow(directory: Path, url: str) -> None:
    """Give the network more channels, with random weights, until it takes SLOWER times as long as a served answer.

    A small network takes a part of that time only: ten times that part is no slow answer.
    """
    card = load_card(directory)
    buffer = io.BytesIO()
    Image.new("RGB", (card.image_size, card.image_size)).save(buffer, "PNG")
    image = buffer.getvalue()
    usual = _median_s(lambda: send(url, image, 1))
    for factor in range(8, 257, 8):
        widths = [factor * width for width in card.arguments["widths"]]
        wider = card.model_copy(update={"arguments": {**card.arguments, "widths": widths}})
        checkpoint.save(directory, wider.build(), wider)
        predictor = Predictor.load(directory)
        if _median_s(partial(predictor.predict, [image])) >= SLOWER * usual:
            return
    raise BenchmarkError("no width makes the network slow enough")


def _median_s(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def _no_memory(process: psutil.Process) -> None:
    """Let no allocation succeed any more."""
    resource.prlimit(process.pid, resource.RLIMIT_AS, (process.memory_info().rss, resource.RLIM_INFINITY))


IN_CHECKPOINT: dict[str, Callable[[Path], None]] = {
    "does not load": BROKEN["a network that raises"],
    "answers NaN": BROKEN["answers are NaN"],
}
SLOW = f"takes {SLOWER} times as long as an answer"
DONE_TO_PROCESS: dict[str, Callable[[psutil.Process], None]] = {
    "raises (no memory)": _no_memory,
    "hangs (SIGSTOP)": lambda process: process.send_signal(signal.SIGSTOP),
    "dies (SIGKILL)": lambda process: process.kill(),
}
KINDS = [*IN_CHECKPOINT, SLOW, *DONE_TO_PROCESS]


def register(server: Server, kind: str) -> ModelVersion:
    """Return a new version, whose checkpoint is broken where the kind says so."""
    if kind == SLOW:
        return server.again(partial(slow, url=server.url))
    return server.again(IN_CHECKPOINT.get(kind, lambda _: None))


def observe(server: Server, version: ModelVersion, kind: str, mode: str) -> dict[str, Any]:
    """Begin an experiment on all requests, break the challenger, and wait for the end.

    Return the seconds from the fault (or else from the first request that the challenger got) to the end, and the
    reason. Raises BenchmarkError where nothing ends it.
    """
    with experiment(server, version, mode, SHARES[mode]) as identifier:
        until_asked(server, identifier)
        broken = []
        if fault := DONE_TO_PROCESS.get(kind):
            broken = _processes(identifier)
            for process in broken:
                fault(process)
        began = time.monotonic()
        try:
            ended = _until(lambda: (now := shown(server, identifier))["state"] == "ended" and now)
        finally:
            for process in broken:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
    return {"seconds": time.monotonic() - began, "reason": ended["reason"]}


@contextmanager
def experiment(server: Server, version: ModelVersion, mode: str, share: float) -> Iterator[str]:
    """Yield the id of an experiment with that version, and end it if it still runs."""
    wanted = {"challenger": version.reference, "mode": mode, "share": share}
    identifier: str = manage.call(server.url, "POST", "/experiments", wanted)["id"]
    try:
        yield identifier
    finally:
        if shown(server, identifier)["state"] == "running":
            manage.call(server.url, "DELETE", "/experiments")
        _until(lambda: not _processes(identifier))


def until_asked(server: Server, identifier: str) -> None:
    """Wait until the challenger has got requests, or its experiment has ended."""

    def asked() -> bool:
        now = shown(server, identifier)
        arm = now["arms"]["challenger"]
        return now["state"] == "ended" or arm["requests"] > 0 or bool(arm["failures"])

    _until(asked)


def shown(server: Server, identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = manage.call(server.url, "GET", f"/experiments/{identifier}")
    return found


def _until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"nothing happened within {PATIENCE_S:.0f} s")
        time.sleep(PERIOD_S)
    return found


def _processes(identifier: str) -> list[psutil.Process]:
    name = f"{REPLICA}{CHALLENGERS}{identifier}"
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith(name):
            found.append(process)
    return found


def send(url: str, image: bytes, count: int) -> list[str]:
    """Send a picture as `count` different clients, and return the versions that answered."""
    versions = []
    with requests.Session() as session:
        session.trust_env = not local_http.reaches_loopback(url)
        for number in range(count):
            headers = {"Content-Type": "application/octet-stream", "X-Client-Id": str(number)}
            answer = session.post(f"{url}/predict", image, headers=headers, timeout=30)
            answer.raise_for_status()
            versions.append(str(json.loads(answer.content)["model_version"]))
    return versions
