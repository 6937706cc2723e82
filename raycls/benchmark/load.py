"""Load for an HTTP classifier, sent by a process of its own: it shares no interpreter lock with who measures.

    with LoadGenerator("http://127.0.0.1:8000/predict", Path("images")) as generator:
        sample = generator.measure(Load(connections=8, seconds=3))
    sample.p99_ms, sample.requests_per_s

Closed loop (`connections`): each connection sends its next request when the last is answered, which finds
the most that a server answers. Open loop (`rate`): requests leave on a schedule whatever the server does, and
latency counts from the scheduled time: a stall is paid by all it held up (no coordinated omission).

Knows a URL and a folder of encoded images; nothing of Ray, models or replicas.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import select
import selectors
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycls.benchmark.connection import AnswerError, Connection, post
from raycls.benchmark.images import EncodedImage, read_images
from raycls.benchmark.request_forms import FORMS, Form
from raycls.errors import BenchmarkError, UsageError
from raycls.serving import auth

MAX_OUTSTANDING = 512  # requests awaiting an answer in an open loop


class Load(BaseModel):
    """What to send: a closed loop of `connections` or an open loop at `rate`, exactly one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    connections: int | None = Field(
        None, ge=1, le=MAX_OUTSTANDING, description="closed loop: requests at a time"
    )
    rate: float | None = Field(default=None, gt=0, le=100_000, description="open loop: requests/s")
    seconds: float = Field(default=3.0, gt=0, le=3600, description="the measured part")
    warmup_seconds: float = Field(
        default=0.5, ge=0, le=600, description="the same load before it, not counted"
    )
    timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="a request unanswered that long is an error"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Load:
        if (self.connections is None) == (self.rate is None):
            raise ValueError("give connections (closed loop) or rate (open loop), one of them")
        return self


class Sample(BaseModel):
    """One measurement. Latencies are of the answers with status 200; None where there was none."""

    answered: int = Field(description="requests answered with status 200")
    errors: dict[str, int] = Field(description="requests not so answered, by status, exception or 'not sent'")
    requests_per_s: float = Field(
        description="answered, per second from the start of the count to the last answer"
    )
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    mean_ms: float | None
    max_ms: float | None
    labelled: int = Field(description="answers to images whose class is known from their folder")
    correct: int = Field(description="of them, those that named that class")
    generator_cores: float = Field(
        description="CPU seconds of the generator per second: its share of the machine"
    )
    refused_p99_ms: float | None = Field(
        None, description="until an answer 429, which each says with Retry-After; None where there was none"
    )
    late_p99_ms: float | None = Field(description="open loop: how late the generator itself was in sending")


def check_url(url: str, *, allow_remote: bool = False) -> str:
    """The URL, when it is http and of this machine or remote ones are allowed; else UsageError."""
    parts = urlsplit(url)
    try:
        right = (
            parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
        )
    except ValueError:  # a port that is no number up to 65,535
        right = False
    if not right or not url.isascii() or any(character.isspace() for character in url):
        raise UsageError(f"{url!r} is not a URL like http://127.0.0.1:8000/predict")
    assert parts.hostname
    try:
        local = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        local = parts.hostname == "localhost"
    if not (local or allow_remote):
        raise UsageError(f"{parts.hostname} is another machine: add --allow-remote if it is yours to load")
    return url


class _Request(NamedTuple):
    data: bytes
    label: str | None


def prepared(url: str, images: Sequence[EncodedImage], form: Form) -> Iterator[_Request]:
    """A request for each image, over and over. Raises UsageError for a token that no header carries."""
    headers = auth.headers()
    return itertools.cycle(
        [_Request(post(url, wrapped.body, wrapped.content_type, headers), wrapped.label)
         for wrapped in map(form.wrap, images)]
    )  # fmt: skip


class _Client:
    """Sends requests and remembers how each one ended."""

    def __init__(self, url: str, requests: Iterator[_Request], form: Form, timeout: float):
        self._url, self._requests, self._named, self._timeout = url, requests, form.named, timeout
        self._idle: list[Connection] = []
        self.latencies: list[float] = []  # seconds, like every time in this module that does not end in _ms
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
        """The connection that was in use last; one that the server has closed since is no longer one."""
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
    """Requests on schedule; one that this process is more than `patience` seconds late with is not sent at all."""
    outstanding: set[asyncio.Task[None]] = set()
    for intended in itertools.takewhile(lambda t: t < end, (start + k / rate for k in itertools.count())):
        # Sleeps even when behind: zero seconds, in which the answers that have arrived are taken in.
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
    """One measurement in this process: warm-up, then the counted part, then the answers still awaited."""
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


class LoadGenerator:
    """A child process that takes one Load a line on stdin and answers with one Sample a line on stdout."""

    def __init__(self, url: str, images: Path, *, form: str = "raw", allow_remote: bool = False):
        self.url, self._images, self._form = check_url(url, allow_remote=allow_remote), images, form
        read_images(images)  # an empty folder is told here, not by a child that has died

    def __enter__(self) -> LoadGenerator:
        command = [sys.executable, "-m", __name__, self.url, str(self._images), self._form]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the one who measures, and `__exit__` ends the child
        )
        self.pid = self._process.pid
        return self

    def measure(self, load: Load) -> Sample:
        """Drive the server once. Raises BenchmarkError when the child ends without an answer or hangs."""
        assert self._process.stdin and self._process.stdout
        bound = load.warmup_seconds + load.seconds + load.timeout_seconds + 30
        watchdog = threading.Timer(bound, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(load.model_dump_json() + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            watchdog.cancel()
        if not answer:
            raise BenchmarkError(
                f"the load generator ended without an answer; its reason is above ({self.url})"
            )
        return Sample.model_validate_json(answer)

    def stop(self) -> None:
        """End the child; a `measure` in another thread then raises."""
        self._process.kill()

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._process.communicate()


class _PreciseSelector(selectors.EpollSelector):
    """epoll, which costs the same however many connections wait, with a timeout to the microsecond.

    epoll's own, and uvloop's, is in whole milliseconds, too coarse for a schedule; select() over all connections takes
    longer with each of them, from the server on the same cores, when that is slow already.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def _precise_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_PreciseSelector())


def main(url: str, directory: str, name: str) -> None:
    form = FORMS[name]
    endless = prepared(url, read_images(Path(directory)), form)
    for line in sys.stdin:
        load = Load.model_validate_json(line)
        with asyncio.Runner(loop_factory=_precise_loop) as runner:
            print(runner.run(drive(url, endless, load, form)).model_dump_json(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
