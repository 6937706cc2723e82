"""Runs podman and podman-compose for benchmarks, and asks what they run."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from harness.container_images import RAYCLS, ROOT
from raycls.errors import BenchmarkError

LONGEST_S = 180
VOLUME = "raycls-benchmark"
# As docs/cluster.md runs it: no rights, and nothing to write but the volume and /tmp.
OPTIONS = (
    *("--init", "--read-only", "--tmpfs", "/tmp", "--shm-size", "1g", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "-v", f"{VOLUME}:/data"),
)
Row = dict[str, Any]


class Podman:
    """Runs podman and podman-compose. env: theirs."""

    def __init__(self, env: Mapping[str, str]):
        self.env = dict(env)

    def run(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(words, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise BenchmarkError(f"{' '.join(words)[:200]}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout.strip()

    def raycls(self, *words: str) -> str:
        return self.run("podman", "run", "--rm", *OPTIONS, RAYCLS, *words)

    def compose(self, *words: str, check: bool = True) -> str:
        return self.run("podman-compose", "-f", "deploy/compose.yaml", *words, check=check)


def picture(folder: Path) -> Path:
    path = folder / "picture.png"
    Image.linear_gradient("L").resize((32, 32)).save(path)
    return path


def until(found: Callable[[], Any], what: str, longest: float = LONGEST_S) -> Any:
    """Return what a function finds. Raises BenchmarkError where it finds nothing in time."""
    deadline = time.monotonic() + longest
    while not (seen := found()):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not within {longest} s")
        time.sleep(0.05)
    return seen


def asked(url: str, token: str, image: Path, *options: str) -> dict[str, Any]:
    """Return the answer to one prediction; empty where there is none."""
    done = subprocess.run(
        [
            "curl",
            "-s",
            "-m",
            "5",
            *options,
            "-H",
            f"Authorization: Bearer {token}",
            "-F",
            f"file=@{image}",
            url,
        ],
        capture_output=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {}
    return answer if "class_name" in answer else {}


def row(what: str, value: Any, goal: str) -> dict[str, Any]:
    return {"what": what, "value": value, "goal": goal}


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {"value": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}
