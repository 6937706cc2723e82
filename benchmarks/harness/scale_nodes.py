"""The parts of benchmarks/scale.py with several nodes: two of one core against one, and a node that is killed.

    rows = pairs(version.reference, copies, count=3)
    row = node_killed(version.reference, copies, files)

The nodes are hosts in namespaces (benchmarks/harness/hosts.py), each with one CPU of Ray's on one core of the machine.
They share its files, as machines do that mount the same folder, and read and write them by `file://`. Neither the
pictures nor RAYCLS_HOME may be in /tmp, of which each host has its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import hosts as namespaces
from harness.hosts import Host, hosts
from harness.scale_kills import compared
from raycls import progress
from raycls.cluster.environment import ensure_token, environment
from raycls.errors import BenchmarkError

BIN = Path(sys.executable).parent
RAY_PORT = 6379
GIVE_UP_S = 600.0
Row = dict[str, Any]


@contextmanager
def nodes(count: int) -> Iterator[tuple[Host, list[Host]]]:
    """Yield a head without CPUs for tasks, and so many nodes of one core each. Raises BenchmarkError."""
    if reason := namespaces.missing():
        raise BenchmarkError(reason)
    ensure_token()
    with hosts(1 + count) as (head, *found):
        for host in (head, *found):
            host.environment = {
                **environment(),
                "RAY_ADDRESS": f"{head.address}:{RAY_PORT}",
                "OMP_NUM_THREADS": "1",
            }
        _ray(head, "--head", f"--port={RAY_PORT}", "--num-cpus=0")
        for core, node in enumerate(found):
            join(head, node, core)
        yield head, found


def join(head: Host, node: Host, core: int) -> None:
    """Start Ray on a node, on one core of the machine."""
    _ray(node, f"--address={head.address}:{RAY_PORT}", "--num-cpus=1", bound=("taskset", "-c", str(core)))


def _ray(host: Host, *words: str, bound: tuple[str, ...] = ()) -> None:
    ray = [str(BIN / "ray"), "start", "--disable-usage-stats", f"--node-ip-address={host.address}"]
    host.run([*bound, *ray, *words])


def _words(model: str, source: Path, output: Path) -> list[str]:
    uris = [f"file://{source}", "--output", f"file://{output}", "--json"]
    return [str(BIN / "raycls"), "score", model, *uris]


def pairs(model: str, source: Path, count: int) -> Iterator[list[Row]]:
    """Yield the rows so far after each pair: the pictures/s of one node and of two, in turns."""
    rows: list[Row] = []
    for number in range(count):
        row: Row = {}
        for size in (1, 2) if number % 2 == 0 else (2, 1):
            with (
                progress.bar(f"{size} of the nodes"),
                tempfile.TemporaryDirectory(dir=source.parent) as folder,
                nodes(size) as (head, _),
            ):
                done = head.run(_words(model, source, Path(folder) / "scores"), timeout=GIVE_UP_S)
                row[f"nodes_{size}"] = json.loads(done.stdout)["pictures_per_s"]
        rows.append(row)
        yield rows


def node_killed(model: str, source: Path, files: list[str], kills: int) -> Row:
    """Kill the second of two nodes while it scores, and start it again, so many times. Return what `compared` does."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder, nodes(2) as (head, found):
        output, log = Path(folder) / "scores", Path(folder) / "log"
        process = head.start(_words(model, source, output), log)
        struck = 0
        deadline = time.monotonic() + GIVE_UP_S
        with progress.bar("kills of a node", kills) as bar:
            before = 0
            while struck < kills and process.poll() is None and time.monotonic() < deadline:
                written = len(list(output.glob("part-*")))
                if written < before + 2:
                    time.sleep(0.2)
                    continue
                found[1].kill()
                join(head, found[1], 1)
                struck, before = struck + 1, written
                bar.advance()
        if code := _waited(process, deadline):
            raise BenchmarkError(f"the scoring ended with {code}: {log.read_text()[-2000:]}")
        return {"kills": {"node": struck}, **compared(source, output, files)}


def _waited(process: subprocess.Popen[bytes], deadline: float) -> int:
    try:
        return process.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        raise BenchmarkError(f"the scoring did not end within {GIVE_UP_S:.0f} s") from None
