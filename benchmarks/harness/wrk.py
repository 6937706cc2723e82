"""Run closed loops with wrk. Its requests cost less CPU time than our own client's; for comparisons of servers.

    if wrk.installed():
        wrk.write(images, FORMS["raw"], folder)
        wrk.closed("http://127.0.0.1:8000/predict", folder, connections=32, seconds=3).requests_per_s

wrk checks only the status of an answer. The caller must check first that a server answers correctly.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from raycls.benchmark.images import EncodedImage
from raycls.benchmark.request_forms import Form
from raycls.errors import BenchmarkError

SCRIPT = Path(__file__).with_suffix(".lua")
TIMEOUT_S = 10


class Closed(NamedTuple):
    """One closed loop. requests_per_s counts answers 2xx and 3xx after the warm-up; the rest covers the whole loop."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def installed() -> bool:
    return shutil.which("wrk") is not None


def write(images: Sequence[EncodedImage], form: Form, folder: Path) -> None:
    """Write the bodies that `closed` sends into the folder, with an index of their content types."""
    lines = []
    for number, request in enumerate(map(form.wrap, images)):
        (folder / f"{number}.body").write_bytes(request.body)
        lines.append(f"{number}.body\t{request.content_type}\n")
    (folder / "index.tsv").write_text("".join(lines))


def closed(
    url: str, folder: Path, *, connections: int, seconds: float, warmup_seconds: float = 1.0
) -> Closed:
    """Run one closed loop with one thread of wrk and return its result. Raises BenchmarkError if wrk fails.

    Requests are counted after the warm-up, in whole turns: a turn is one request of every connection. If no turn ends
    within `seconds`, the requests sent in that time are counted. A slow server answers many requests at once, so a
    fixed time window would count too few or too many.
    """
    duration = math.ceil(warmup_seconds + seconds)  # wrk takes no fractions
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", f"--timeout={TIMEOUT_S}s"]
    command += ["-s", str(SCRIPT), url, "--", str(folder)]
    command += [str(warmup_seconds), str(seconds), str(connections)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + 60, check=False)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"wrk did not end within {duration + 60} s at {url}") from None
    if done.returncode:
        raise BenchmarkError(f"wrk failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    counts = json.loads(done.stdout.splitlines()[-1])
    succeeded = (counts["answered"] - counts["refused"]) / max(1, counts["answered"] + counts["unanswered"])
    failed = counts["refused"] + counts["unanswered"]
    return Closed(
        succeeded * counts["counted"] / counts["counted_s"], counts["p50_ms"], counts["p99_ms"], failed
    )
