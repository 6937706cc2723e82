"""The arms of benchmarks/scale.py: `raycls score`, bare processes and a DataLoader loop over the same files, in turns.

    with pictures_like(folder, 20_000) as (copies, files):
        rows = rounds(version, copies, files, count=5)

Files are hard links to a few pictures, so that the kernel has them in memory for every arm: what is compared is the
work, and not the disk.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycls import machine, progress, registry
from raycls.errors import BenchmarkError, UsageError

# One file of so many is in the DataLoader loop. All of them take four times as long as both other arms together.
EVERY = 10
PEERS = Path(__file__).parents[1] / "peers" / "scoring"
Row = dict[str, Any]


@contextmanager
def pictures_like(folder: Path, count: int) -> Iterator[tuple[Path, Path]]:
    """Yield a folder of `count` hard links to the pictures of another one, and a text file that lists their paths."""
    pictures = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not pictures:
        raise UsageError(f"{folder} holds no file: give a folder of pictures")
    with tempfile.TemporaryDirectory(prefix="raycls-scale-", dir=folder.parent) as made:
        copies, paths = Path(made) / "pictures", []
        for index, picture in zip(range(count), itertools.cycle(pictures), strict=False):
            path = copies / f"{index // 1000:04}" / f"{index:08}{picture.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(picture)
            paths.append(str(path))
        (Path(made) / "files.txt").write_text("\n".join(paths))
        yield copies, Path(made) / "files.txt"


def rounds(version: registry.ModelVersion, copies: Path, files: Path, count: int) -> Iterator[list[Row]]:
    """Yield the rows so far after each round. The arms of a round follow each other in another order each time."""
    arms = [
        lambda: _raycls(version, copies),
        lambda: _bare(version, files),
        lambda: _dataloader(version, files),
    ]
    rows: list[Row] = []
    for number in range(count):
        order = arms[number % 3 :] + arms[: number % 3]
        row: Row = {"pictures": len(files.read_text().splitlines())}
        for arm in order:
            row |= arm()
        rows.append(row)
        yield rows


def _raycls(version: registry.ModelVersion, copies: Path) -> Row:
    """Score with `raycls score`, which starts a Ray of its own."""
    with progress.bar("raycls score"), tempfile.TemporaryDirectory() as folder:
        words = ["score", version.reference, str(copies), "--output", f"{folder}/scores", "--json"]
        found = json.loads(_run([sys.executable, "-m", "raycls", *words], RAY_ADDRESS="local"))
    return {
        "raycls_per_s": found["pictures_per_s"],
        "raycls_start_s": found["start_seconds"],
        "raycls_s": found["seconds"],
        "errors": found["errors"],
    }


def _bare(version: registry.ModelVersion, files: Path) -> Row:
    """Score with one bare process for each core."""
    directory, engine = registry.checkpoint(version), registry.engine_to_serve(version)
    cores = machine.cores()
    command = [sys.executable, str(PEERS / "bare.py"), str(directory), engine, str(files)]
    with progress.bar("bare processes"):
        children = [
            subprocess.Popen(
                [*command, str(part), str(cores)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for part in range(cores)
        ]
        try:
            for child in children:
                assert child.stdout
                if child.stdout.readline() != "ready\n":
                    raise BenchmarkError("a bare process failed; the lines above say why")
            for child in children:
                assert child.stdin
                child.stdin.write("go\n")
                child.stdin.flush()
            seconds = max(float(child.communicate()[0]) for child in children)
        finally:
            for child in children:
                child.kill()
                child.wait()
    return {"bare_per_s": len(files.read_text().splitlines()) / seconds}


def _dataloader(version: registry.ModelVersion, files: Path) -> Row:
    few = files.with_name("few.txt")
    few.write_text("\n".join(files.read_text().splitlines()[::EVERY]))
    with progress.bar("a DataLoader loop"):
        directory = registry.checkpoint(version)
        found = json.loads(_run([sys.executable, str(PEERS / "dataloader.py"), str(directory), str(few)]))
    return {"dataloader_per_s": found["pictures"] / found["seconds"]}


def _run(command: list[str], **environment: str) -> str:
    """Return the last line that a program prints."""
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{command[1]} ended with {done.returncode}; the lines above say why")
    return done.stdout.splitlines()[-1]
