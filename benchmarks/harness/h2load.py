"""Send load with h2load, a client in C that leaves the server more CPU time; for loads above the server's peak.

    if h2load.installed():
        peak = h2load.drive(url, images, Load(connections=100, seconds=10))
        over = h2load.drive(url, images, Load(rate=3 * peak.requests_per_s, seconds=60))

A rate is divided among MAX_OUTSTANDING connections. A connection sends its next request when the request is due and the
previous one is answered. So a latency counts from the sending, and a request that could not be sent in time is not
counted. h2load sends a single image and checks only the status of an answer.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raycls.benchmark.images import EncodedImage
from raycls.benchmark.load import MAX_OUTSTANDING, Load, Sample
from raycls.errors import BenchmarkError

OK, BUSY = 200, 429


def installed() -> bool:
    return shutil.which("h2load") is not None


def drive(url: str, images: Sequence[EncodedImage], load: Load) -> Sample:
    """Send one load and return its Sample. Raises BenchmarkError if h2load fails."""
    seconds = load.warmup_seconds + load.seconds
    with tempfile.TemporaryDirectory(prefix="raycls-h2load-") as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(images[0].body)
        command = [
            "h2load",
            "--h1",
            "-t1",
            f"-c{load.connections or MAX_OUTSTANDING}",
            f"-D{round(1000 * seconds)}ms",
        ]
        command += [f"--rps={load.rate / MAX_OUTSTANDING:.3f}"] if load.rate else []
        command += [f"-N{round(1000 * load.timeout_seconds)}ms", f"--log-file={log}", f"-d{body}"]
        command += ["-H", f"content-type: {images[0].content_type}", url]
        began, cpu = time.perf_counter(), _cpu_seconds()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"h2load did not end within {seconds + 60:g} s at {url}") from None
        if done.returncode or not log.exists() or not log.stat().st_size:
            reason = (done.stderr or done.stdout).strip() or f"its exit code is {done.returncode}"
            raise BenchmarkError(f"h2load failed: {reason.splitlines()[-1]}")
        cores = (_cpu_seconds() - cpu) / (time.perf_counter() - began)
        return _sample(np.loadtxt(log, ndmin=2), load, cores)


def _cpu_seconds() -> float:
    """Return the CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sample(log: np.ndarray, load: Load, cores: float) -> Sample:
    """log has a row for each answer: start time in µs, status (-1: no answer), duration in µs."""
    begins, statuses, ms = log[:, 0] / 1e6, log[:, 1].astype(int), log[:, 2] / 1e3
    counted = begins >= begins.min() + load.warmup_seconds
    ok, busy = (ms[counted & (statuses == status)] for status in (OK, BUSY))
    kinds = Counter(statuses[counted & (statuses != OK)].tolist())
    p50, p95, p99 = np.percentile(ok, (50, 95, 99)).tolist() if len(ok) else (None,) * 3
    return Sample(
        answered=len(ok),
        errors={str(status) if status > 0 else "no answer": count for status, count in kinds.items()},
        requests_per_s=len(ok) / load.seconds,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=float(ok.mean()) if len(ok) else None,
        max_ms=float(ok.max()) if len(ok) else None,
        labelled=0,
        correct=0,
        generator_cores=cores,
        refused_p99_ms=float(np.percentile(busy, 99)) if len(busy) else None,
        late_p99_ms=None,
    )
