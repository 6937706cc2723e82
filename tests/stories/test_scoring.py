"""A scoring whose driver and whose actors are killed: each picture has one row in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from raycls.data.versions import open_dataset
from raycls.training.filing import TrainingResult
from tests.product import png_of

ROWS = 60_000


@pytest.fixture
def table(trained: TrainingResult, tmp_path: Path) -> Path:
    """A table of many paths: those of few pictures, with a query that makes each another one."""
    for index, pixels in enumerate(np.array(open_dataset("digits").images("test")[:50])):
        (tmp_path / f"{index:02}.png").write_bytes(png_of(pixels))
    names = [f"{'./' * (row // 50 % 12)}{row % 50:02}.png" for row in range(ROWS)]
    pq.write_table(pa.table({"path": names}), tmp_path / "pictures.parquet")
    return tmp_path / "pictures.parquet"


@pytest.fixture
def start(table: Path, tmp_path: Path) -> Iterator[Callable[[], psutil.Popen]]:
    """Start `raycls score` with a Ray of its own; none outlives the test."""
    started: list[psutil.Popen] = []

    def run() -> psutil.Popen:
        words = ["score", "digits", str(table), "--output", str(tmp_path / "scores")]
        with (tmp_path / "log").open("ab") as log:
            started.append(
                psutil.Popen(
                    [sys.executable, "-m", "raycls", *words],
                    env=os.environ | {"RAY_ADDRESS": "local"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return started[-1]

    yield run
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait()


def _actors(driver: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in driver.children(recursive=True):
        with suppress(psutil.NoSuchProcess, IndexError):
            if process.cmdline()[0].startswith("ray::MapWorker"):
                found.append(process)
    return found


def _until(true: Callable[[], object], driver: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.timeout(400)
def test_kills_and_ctrl_c_lose_nothing_and_score_nothing_twice(
    champion: TrainingResult, table: Path, start: Callable[[], psutil.Popen], tmp_path: Path
) -> None:
    output, log = tmp_path / "scores", tmp_path / "log"

    def written() -> int:
        return len(list(output.glob("part-*")))

    driver = start()
    _until(lambda: written() >= 2, driver, log)
    driver.kill()  # and with it its Ray
    driver.wait()
    before = written()

    driver = start()
    _until(lambda: written() >= before + 2 and _actors(driver), driver, log)
    _actors(driver)[0].kill()
    before = written()
    _until(lambda: written() >= before + 2, driver, log)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130, log.read_text()
    assert log.read_text().splitlines()[-1] == "interrupted"
    assert "Traceback" not in log.read_text()
    assert written() < ROWS // 2048, "nothing was left to do"

    driver = start()
    assert driver.wait(200) == 0, log.read_text()
    assert "going on with digits/" in log.read_text()
    rows = ds.dataset(output).to_table(columns=["path", "error"])
    expected = Counter(pq.read_table(table)["path"].to_pylist())
    assert Counter(rows["path"].to_pylist()) == expected
    assert rows["error"].null_count == ROWS
    assert f"{ROWS:,} pictures of" in log.read_text()
