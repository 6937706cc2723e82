"""The child process of a LoadGenerator: it sends requests to a server and measures the answers.

    python -m raycls.benchmark.sender http://127.0.0.1:8000/predict images raw <<< '{"connections": 8}'

It reads one Load (JSON) per line on stdin and prints one Sample (JSON) per line on stdout.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import select
import selectors
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raycls.benchmark.connection import AnswerError, Connection, post
from raycls.benchmark.images import EncodedImage, read_images
from raycls.benchmark.load import MAX_OUTSTANDING, Load, Sample
from raycls.benchmark.request_forms import FORMS, Form
from raycls.serving import auth


class _Request(NamedTuple):
    data: bytes
    label: str | None


def prepared(url: str, images: Sequence[EncodedImage], form: Form) -> Iterator[_Request]:
    """Return an endless iterator of requests, one per image, in turn. Raises UsageError for a token that is invalid
    or would travel unencrypted."""
    headers = auth.headers(url)
    return itertools.cycle(
        [_Request(post(url, wrapped.body, wrapped.content_type, headers), wrapped.label)
         for wrapped in map(form.wrap, images)]
    )  # fmt: skip


class _Client:
    """Sends requests and counts how each one ended."""

    def __init__(self, url: str, requests: Iterator[_Request], form: Form, timeout: float):
        self._url, self._requests, self._named, self._timeout = url, requests, form.named, timeout
        self._idle: list[Connection] = []
        self.latencies: list[float] = []  # seconds
        self.lateness: list[float] = []
        self.refusals: list[float] = []
        self.errors: Counter[str] = Counter()
        self.labelled = self.correct = 0
        self.last_answer = 0.0

    async def send(self, intended: float, counted: bool) -> None:
        request = next(self._requests)
        late = time.perf_counter() - intended
        connection = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = self._free() or await Connection.open(self._url)
                answer = await connection.ask(request.data)
            error = None if answer.status == 200 else str(answer.status)
            if answer.status == 429 and not answer.retry_after:
                error = "429 without Retry-After"
            if error is None and request.label is not None:
                named = self._named(json.loads(answer.body))
        except TimeoutError:
            error = "timeout"
        except (OSError, AnswerError) as failure:
            error = type(failure).__name__
        except (ValueError, LookupError, TypeError):
            error = "answer without class_name"
        if connection:
            if connection.usable:
                self._idle.append(connection)
            else:
                connection.abort()
        if not counted:
            return
        if error:
            self.errors[error] += 1
            if error == "429":
                self.refusals.append(answer.at - intended)
            return
        self.last_answer = max(self.last_answer, answer.at)
        self.latencies.append(answer.at - intended)
        self.lateness.append(late)
        if request.label is not None:
            self.labelled += 1
            self.correct += named == request.label

    def _free(self) -> Connection | None:
        """Return the most recently used connection that is still open, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()


async def _closed(client: _Client, connections: int, begin: float, end: float) -> None:
    async def connection() -> None:
        while (sent := time.perf_counter()) < end:
            await client.send(sent, counted=sent >= begin)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(connection())


async def _open(
    client: _Client, rate: float, start: float, begin: float, end: float, patience: float
) -> None:
    """Send requests on schedule. A request that would leave more than `patience` seconds late is not sent."""
    outstanding: set[asyncio.Task[None]] = set()
    for intended in itertools.takewhile(lambda t: t < end, (start + k / rate for k in itertools.count())):
        # A sleep of 0 s lets the event loop read the answers that have arrived, also when this loop is late.
        await asyncio.sleep(max(0.0, intended - time.perf_counter()))
        full = len(outstanding) >= MAX_OUTSTANDING
        if full or time.perf_counter() - intended > patience:
            if intended >= begin:
                client.errors[f"not sent: {f'{MAX_OUTSTANDING} unanswered' if full else 'too late'}"] += 1
            continue
        task = asyncio.create_task(client.send(intended, counted=intended >= begin))
        outstanding.add(task)
        task.add_done_callback(outstanding.discard)
    await asyncio.gather(*outstanding)


async def drive(url: str, requests: Iterator[_Request], load: Load, form: Form) -> Sample:
    """Send one load and return its Sample: first the warm-up, then the measured part, then the last answers."""
    client = _Client(url, requests, form, load.timeout_seconds)
    start, cpu = time.perf_counter(), time.process_time()
    begin = start + load.warmup_seconds
    if load.connections:
        await _closed(client, load.connections, begin, begin + load.seconds)
    else:
        assert load.rate
        await _open(client, load.rate, start, begin, begin + load.seconds, load.timeout_seconds)
    cores = (time.process_time() - cpu) / (time.perf_counter() - start)
    client.close()
    latencies = np.array(client.latencies) * 1000
    answered = len(latencies)
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99)).tolist() if answered else (None,) * 3
    return Sample(
        answered=answered,
        errors=dict(client.errors),
        requests_per_s=answered / max(load.seconds, client.last_answer - begin),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=float(latencies.mean()) if answered else None,
        max_ms=float(latencies.max()) if answered else None,
        labelled=client.labelled,
        correct=client.correct,
        generator_cores=cores,
        refused_p99_ms=float(np.percentile(client.refusals, 99)) * 1000 if client.refusals else None,
        late_p99_ms=float(np.percentile(client.lateness, 99)) * 1000 if load.rate and answered else None,
    )


class _PreciseSelector(selectors.EpollSelector):
    """An epoll selector whose timeout has a resolution of microseconds.

    The timeout of epoll itself (and of uvloop) counts whole milliseconds, which is too coarse for a schedule. This
    selector waits with select() on the epoll descriptor alone, so that the cost does not grow with the connections.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def _precise_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_PreciseSelector())


def main(url: str, directory: str, form_name: str) -> None:
    form = FORMS[form_name]
    requests = prepared(url, read_images(Path(directory)), form)
    for line in sys.stdin:
        load = Load.model_validate_json(line)
        with asyncio.Runner(loop_factory=_precise_loop) as runner:
            print(runner.run(drive(url, requests, load, form)).model_dump_json(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
