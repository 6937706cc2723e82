"""The parts of benchmarks/scale.py that look at one long scoring: kills, and memory.

    row = killed(version.reference, copies, kills=20, seed=0)
    rows = watched(version.reference, table)

Both run `raycls score` as a process of its own, with a Ray of its own.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from raycls import progress
from raycls.errors import BenchmarkError

Row = dict[str, Any]
VICTIMS = ("driver", "actor", "actor")
WAIT_S = 60.0  # for something to kill


def start(model: str, source: Path, output: Path, log: Path) -> psutil.Popen:
    """Start `raycls score` in a session of its own."""
    command = [sys.executable, "-m", "raycls", "score", model, str(source), "--output", str(output)]
    with log.open("ab") as file:
        return psutil.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"RAY_ADDRESS": "local"},
        )


def actors(driver: psutil.Process) -> list[psutil.Process]:
    """Return the processes that score."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in driver.children(recursive=True):
            with suppress(psutil.NoSuchProcess, IndexError):
                if process.cmdline()[0].startswith("ray::MapWorker"):
                    found.append(process)
    return found


def written(output: Path) -> int:
    return len(list(output.glob("part-*")))


def killed(model: str, source: Path, files: list[str], kills: int, seed: int) -> Row:
    """Kill processes of a scoring at random moments. Return what it took, and how its rows differ from the files."""
    rng = random.Random(seed)
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="raycls-kills-") as folder:
        output, log = Path(folder) / "scores", Path(folder) / "log"
        driver = start(model, source, output, log)
        with progress.bar("kills", kills) as bar:
            while sum(done.values()) < kills:
                if driver.poll() is not None:
                    if driver.returncode == 0:
                        break  # finished before all kills: more pictures are needed
                    driver = start(model, source, output, log)
                victim = rng.choice(VICTIMS)
                if not _work_begins(driver, written(output)):
                    raise BenchmarkError(f"nothing was scored for {WAIT_S:.0f} s: {log.read_text()[-2000:]}")
                time.sleep(rng.uniform(0, 2))
                if victim == "driver" and driver.is_running():
                    driver.kill()
                    driver.wait()
                elif found := actors(driver):
                    with suppress(psutil.NoSuchProcess):
                        rng.choice(found).send_signal(signal.SIGKILL)
                else:
                    continue
                done[victim] += 1
                bar.advance()
        while driver.wait() != 0:
            driver = start(model, source, output, log)
        return {"kills": dict(done), **compared(source, output, files)}


def compared(source: Path, output: Path, files: list[str]) -> Row:
    """Return how the rows of scores differ from the files: how many are there twice, are missing, or are no files."""
    rows = Counter(ds.dataset(output).to_table(columns=["path"])["path"].to_pylist())
    expected = {str(Path(file).relative_to(source)) for file in files}
    return {
        "pictures": len(files),
        "rows": rows.total(),
        "twice": sum(count > 1 for count in rows.values()),
        "missing": len(expected - set(rows)),
        "foreign": len(set(rows) - expected),
    }


def _work_begins(driver: psutil.Popen, before: int) -> bool:
    """Wait until actors run, or the driver has ended."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if driver.poll() is not None or actors(driver):
            return True
        time.sleep(0.1)
    return False


def watched(model: str, pictures: list[str], rows: int) -> list[Row]:
    """Score a table of `rows` paths, which repeat a few pictures, and return the memory every ten seconds.

    driver_mb, actors_mb: their own memory (USS). machine_mb: what the machine has less than before.
    """
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="raycls-memory-") as folder:
        table = Path(folder) / "pictures.parquet"
        repeated = pa.array(pictures).take(pa.array([index % len(pictures) for index in range(rows)]))
        pq.write_table(pa.table({"path": repeated}), table)
        before = psutil.virtual_memory().available
        output, log = Path(folder) / "scores", Path(folder) / "log"
        driver = start(model, table, output, log)
        began = time.monotonic()
        with progress.bar(f"scoring {rows:,} rows"):
            while driver.poll() is None:
                time.sleep(10)
                with suppress(psutil.NoSuchProcess):
                    own = driver.memory_full_info().uss
                    others = sum(process.memory_full_info().uss for process in actors(driver))
                    machine_wide = before - psutil.virtual_memory().available
                    found.append(
                        {
                            "seconds": time.monotonic() - began,
                            "parts": written(output),
                            "driver_mb": own / 1e6,
                            "actors_mb": others / 1e6,
                            "machine_mb": machine_wide / 1e6,
                        }
                    )
        if driver.returncode:
            raise BenchmarkError(f"the scoring failed: {log.read_text()[-2000:]}")
    return found
