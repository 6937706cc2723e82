"""A load generator for an HTTP classifier: what to send (Load), what came back (Sample), and who sends it.

    with LoadGenerator("http://127.0.0.1:8000/predict", Path("images")) as generator:
        sample = generator.measure(Load(connections=8, seconds=3))
    sample.p99_ms, sample.requests_per_s

The requests are sent by a child process (raycls/benchmark/sender.py), so that the sender and the measuring program do
not share an interpreter lock.

Closed loop (`connections`): each connection sends its next request when the previous one is answered. This finds the
highest throughput of a server. Open loop (`rate`): requests are sent on a schedule, however slow the server is, and
latency counts from the scheduled time. A stall therefore counts for every request that it delays (no coordinated
omission).

This module knows a URL and a folder of encoded images. It does not know Ray, models or replicas.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycls.benchmark.images import read_images
from raycls.errors import BenchmarkError, UsageError

SENDER = "raycls.benchmark.sender"  # the module that the child process runs
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
        default=0.5, ge=0, le=600, description="the same load before the measured part, not counted"
    )
    timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="a request without an answer after this time is an error"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Load:
        if (self.connections is None) == (self.rate is None):
            raise ValueError("give either connections (closed loop) or rate (open loop)")
        return self


class Sample(BaseModel):
    """One measurement. Latencies are those of the answers with status 200; None if there was no such answer."""

    answered: int = Field(description="requests answered with status 200")
    errors: dict[str, int] = Field(description="all other requests, by status, exception or 'not sent'")
    requests_per_s: float = Field(
        description="answered requests per second, from the start of the measured part to the last answer"
    )
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    mean_ms: float | None
    max_ms: float | None
    labelled: int = Field(description="answers to images whose true class is known (the folder's name)")
    correct: int = Field(description="labelled answers that named the true class")
    generator_cores: float = Field(description="CPU seconds that the generator used per second")
    refused_p99_ms: float | None = Field(
        None, description="latency of the answers 429 with Retry-After; None if there was no such answer"
    )
    late_p99_ms: float | None = Field(description="open loop: delay of the generator's own sending")


def check_url(url: str, *, allow_remote: bool = False) -> str:
    """Return the URL if it is HTTP and names this machine, or any machine with allow_remote.

    Raises UsageError for every other URL.
    """
    parts = urlsplit(url)
    try:
        valid = (
            parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
        )
    except ValueError:  # the port is not a number up to 65,535
        valid = False
    if not valid or not url.isascii() or any(character.isspace() for character in url):
        raise UsageError(f"{url!r} is not a URL like http://127.0.0.1:8000/predict")
    assert parts.hostname
    try:
        local = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        local = parts.hostname == "localhost"
    if not (local or allow_remote):
        raise UsageError(
            f"{parts.hostname} is another machine: add --allow-remote if you may send load to that machine"
        )
    return url


class LoadGenerator:
    """Starts the child process that sends the requests, and passes each Load to it. A context manager.

    form is a name in raycls.benchmark.request_forms. Raises UsageError for a URL or folder that cannot be used.
    """

    def __init__(self, url: str, images: Path, *, form: str = "raw", allow_remote: bool = False):
        self.url, self._images, self._form = check_url(url, allow_remote=allow_remote), images, form
        read_images(images)  # an empty folder is an error here, in the caller's process

    def __enter__(self) -> LoadGenerator:
        command = [sys.executable, "-m", SENDER, self.url, str(self._images), self._form]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C must not reach the child: `__exit__` stops it
        )
        self.pid = self._process.pid
        return self

    def measure(self, load: Load) -> Sample:
        """Return what the server did under one load. Raises BenchmarkError if the child ends early or hangs."""
        assert self._process.stdin and self._process.stdout
        limit = load.warmup_seconds + load.seconds + load.timeout_seconds + 30
        watchdog = threading.Timer(limit, self._process.kill)
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
                f"the load generator ended without a result ({self.url}); the lines above say why"
            )
        return Sample.model_validate_json(answer)

    def stop(self) -> None:
        """Stop the child. A `measure` that is running in another thread raises BenchmarkError."""
        self._process.kill()

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._process.communicate()
