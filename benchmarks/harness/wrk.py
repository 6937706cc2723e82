"""Closed loops by wrk, whose requests cost less CPU than our own client's; for comparisons of servers.

    if wrk.installed():
        wrk.write(images, FORMS["raw"], folder)
        wrk.closed("http://127.0.0.1:8000/predict", folder, connections=32, seconds=3).requests_per_s

It looks at no answer but for its status: who compares servers asks each of them first whether it answers right.
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
    """One closed loop: answers of 2xx or 3xx after its warm-up; of all of it, latencies and how many failed."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def installed() -> bool:
    return shutil.which("wrk") is not None


def write(images: Sequence[EncodedImage], form: Form, folder: Path) -> None:
    """The bodies that `closed` sends, with an index of their content types."""
    lines = []
    for number, request in enumerate(map(form.wrap, images)):
        (folder / f"{number}.body").write_bytes(request.body)
        lines.append(f"{number}.body\t{request.content_type}\n")
    (folder / "index.tsv").write_text("".join(lines))


def closed(
    url: str, folder: Path, *, connections: int, seconds: float, warmup_seconds: float = 1.0
) -> Closed:
    """One loop from one thread of wrk's, counted when it is under way. Raises BenchmarkError where wrk cannot run it.

    What a server is at work on when a loop ends is in no answer: of a few slow ones that would be much, were the
    beginning counted, when it had nothing to do. Whole turns of the connections are counted, as many as end in those
    seconds; where none does, what was sent in them.
    """
    duration = math.ceil(warmup_seconds + seconds)  # wrk takes no fractions
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", f"--timeout={TIMEOUT_S}s"]
    command += ["-s", str(SCRIPT), url, "--", str(folder)]
    command += [str(warmup_seconds), str(seconds), str(connections)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + 60, check=False)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"wrk did not end a minute after its {duration} s at {url}") from None
    if done.returncode:
        raise BenchmarkError(f"wrk failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    told = json.loads(done.stdout.splitlines()[-1])
    right = (told["answered"] - told["refused"]) / max(1, told["answered"] + told["unanswered"])
    failed = told["refused"] + told["unanswered"]
    return Closed(right * told["counted"] / told["counted_s"], told["p50_ms"], told["p99_ms"], failed)
