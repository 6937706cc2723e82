"""Measure how fast `raycls data prepare` decodes, and how much memory and disk it takes. Writes results/data.md.

    python benchmarks/data.py                                   # pictures of 12 megapixels
    python benchmarks/data.py --files 20000 --width 32 --height 32 --size 32 --part small

The pictures are made for it, in a temporary folder. Each round decodes all of them twice in turns: by raycls, and by
bare processes, one for each core, which only read, decode and resize the same files with the same settings. The last
line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from harness import results_page
from PIL import Image

from raycls import cluster, command, progress
from raycls.data.ingest import decode_all
from raycls.data.parts import Parts
from raycls.data.sources import Choice, list_source
from raycls.data.transforms import read_square

RESULTS = Path(__file__).parent / "results"
PICTURES = 24  # different ones; files are copies with another comment, so that no two are the same
CLASSES = 4


def make(folder: Path, files: int, width: int, height: int) -> None:
    """Write JPEG files of soft random shapes with noise, which compress as photographs do."""
    random = np.random.default_rng(0)
    encoded = []
    for index in range(PICTURES):
        shapes = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        pixels = np.asarray(
            Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC), np.int16
        )
        noisy = np.clip(pixels + random.integers(-9, 10, pixels.shape, np.int16), 0, 255).astype(np.uint8)
        path = folder / f"{index}.jpg"
        Image.fromarray(noisy).save(path, quality=88)
        encoded.append(path.read_bytes())
        path.unlink()
    for index in range(files):
        target = folder / f"class-{index % CLASSES}" / f"{index:06}.jpg"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(encoded[index % PICTURES] + f"{index}".encode())


def bare(paths: list[str], size: int) -> float:
    """Return the seconds that one process for each core needs to decode and resize the files."""
    cores = os.cpu_count() or 1
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        pool.map(_decode, [(paths[:1], size)] * cores)  # imports and first allocations
        started = time.perf_counter()
        pool.map(_decode, [(paths[core::cores], size) for core in range(cores)], chunksize=1)
        return time.perf_counter() - started


def _decode(task: tuple[list[str], int]) -> int:
    paths, size = task
    return sum(int(read_square(Path(path).read_bytes(), size)[0, 0, 0]) for path in paths)


class Watch(threading.Thread):
    """Notes the largest memory of this process and of Ray's workers (USS, bytes), and the largest scratch folder."""

    def __init__(self, scratch: Path):
        super().__init__(daemon=True)
        self.driver = self.worker = self.disk = 0
        self._scratch, self._done = scratch, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.5):
            self.driver = max(self.driver, psutil.Process().memory_full_info().uss)
            for process in psutil.process_iter(["name", "cmdline"]):
                try:
                    if "decode_batch" in " ".join(process.info["cmdline"] or ()):
                        self.worker = max(self.worker, process.memory_full_info().uss)
                except psutil.Error:
                    continue
            sizes = (file.stat().st_size for file in self._scratch.rglob("*") if file.is_file())
            self.disk = max(self.disk, sum(sizes))

    def stop(self) -> None:
        self._done.set()
        self.join()


def measure(options: argparse.Namespace) -> results_page.Document:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        folder.mkdir()
        with progress.bar(f"making {options.files:,} pictures of {options.width}×{options.height}"):
            make(folder, options.files, options.width, options.height)
        listing = list_source(str(folder), Choice())
        paths = [str(where[1]) for where in listing.wheres]
        cluster.connect()
        for number in range(options.rounds + 1):
            scratch = Path(temporary) / f"scratch-{number}"
            watch = Watch(scratch)
            watch.start()
            parts = Parts(scratch, options.size, "crop")
            started = time.perf_counter()
            decode_all(listing, parts, "crop")
            seconds = time.perf_counter() - started
            watch.stop()
            row = {
                "raycls_per_s": len(paths) / seconds,
                "bare_per_s": len(paths) / bare(paths, options.size),
                "driver_mb": watch.driver / 1e6,
                "worker_mb": watch.worker / 1e6,
                "disk_share": watch.disk / (len(paths) * options.size**2 * 3),
            }
            if number:  # the first round starts Ray's workers
                rows.append(row)
                progress.say(json.dumps(row))
    arguments = {name: getattr(options, name) for name in ("files", "width", "height", "size", "rounds")}
    return results_page.document(options.part, arguments, rows)


def write_page() -> None:
    """Write data.md from the JSON files of all parts."""
    lines = [
        "# Preparing data",
        "",
        "Made by `python benchmarks/data.py`. A ratio is of one round, in which raycls and the bare processes took",
        "turns; the table has the median and the range. Memory is what a process holds alone (USS).",
        "",
        "| pictures | raycls, images/s | bare processes | ratio (goal 0.9) | driver | worker | scratch / result |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted((RESULTS / "data").glob("*.json")):
        document = json.loads(path.read_text())
        rows, given = document["rows"], document["arguments"]
        ratios = [row["raycls_per_s"] / row["bare_per_s"] for row in rows]
        middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        lines.append(
            f"| {given['files']:,} JPEG of {given['width']}×{given['height']} to {given['size']} "
            f"| {middle['raycls_per_s']:,.0f} | {middle['bare_per_s']:,.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, n={len(ratios)}) "
            f"| {max(row['driver_mb'] for row in rows):.0f} MB | {max(row['worker_mb'] for row in rows):.0f} MB "
            f"| {max(row['disk_share'] for row in rows):.2f} |"
        )
    (RESULTS / "data.md").write_text("\n".join(lines) + "\n")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", default="photographs", help="name of the part: results/data/PART.json")
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--width", type=int, default=4000, help="pixels")
    parser.add_argument("--height", type=int, default=3000, help="pixels")
    parser.add_argument("--size", type=int, default=64, help="pixels a side of the result")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    document = measure(options)
    results_page.keep(RESULTS, "data", document)
    write_page()
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
