"""The decoding part of benchmarks/data.py: images/s beside bare processes, memory, and scratch on disk.

    part = measure(files=400, width=4000, height=3000, size=64, rounds=5)      # a document

Each round decodes all pictures twice in turns: by raycls, and by bare processes, one for each core, which only read,
decode and resize the same files with the same settings.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from raycls import cluster, progress
from raycls.data.ingest import decode_all
from raycls.data.listing import Listing
from raycls.data.parts import Parts
from raycls.data.sources import Choice, list_source
from raycls.data.transforms import read_square

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
    pool = multiprocessing.get_context("spawn").Pool(cores)
    try:
        pool.map(_decode, [(paths[:1], size)] * cores)  # imports and first allocations
        started = time.perf_counter()
        pool.map(_decode, [(paths[core::cores], size) for core in range(cores)], chunksize=1)
        return time.perf_counter() - started
    finally:
        pool.close()
        pool.join()


def _decode(task: tuple[list[str], int]) -> int:
    paths, size = task
    return sum(int(read_square(Path(path).read_bytes(), size)[0, 0, 0]) for path in paths)


class Watch(threading.Thread):
    """Notes the largest memory of this process and of Ray's workers (USS, bytes), and the largest scratch folder."""

    def __init__(self, scratch: Path):
        super().__init__(daemon=True)
        self.driver = self.worker = self.disk = 0
        self.scratch, self._done = scratch, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.5):
            self.driver = max(self.driver, psutil.Process().memory_full_info().uss)
            for process in psutil.process_iter(["name", "cmdline"]):
                try:
                    if "decode_batch" in " ".join(process.info["cmdline"] or ()):
                        self.worker = max(self.worker, process.memory_full_info().uss)
                except psutil.Error:
                    continue
            self.look_at_disk()

    def look_at_disk(self) -> None:
        sizes = (file.stat().st_size for file in self.scratch.rglob("*") if file.is_file())
        self.disk = max(self.disk, sum(sizes))

    def stop(self) -> None:
        self._done.set()
        self.join()
        self.look_at_disk()


def measure(files: int, width: int, height: int, size: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each round."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        folder.mkdir()
        with progress.bar(f"making {files:,} pictures of {width}×{height}"):
            # In a process of its own, whose memory is not the driver's.
            maker = multiprocessing.get_context("spawn").Process(
                target=make, args=(folder, files, width, height)
            )
            maker.start()
            maker.join()
        listing = list_source(str(folder), Choice())
        paths = [str(where[1]) for where in listing.wheres]
        cluster.connect()
        # The first round starts Ray's workers, and is watched. To watch takes CPU, so the others are only timed.
        watch = Watch(Path(temporary) / "scratch-0")
        watch.start()
        _decode_all(listing, watch.scratch, size)
        watch.stop()
        watched = {
            "driver_mb": watch.driver / 1e6,
            "worker_mb": watch.worker / 1e6,
            "disk_share": watch.disk / (len(paths) * size**2 * 3),
        }
        for number in range(1, rounds + 1):
            seconds = _decode_all(listing, Path(temporary) / f"scratch-{number}", size)
            rates = {"raycls_per_s": len(paths) / seconds, "bare_per_s": len(paths) / bare(paths, size)}
            rows.append({**rates, **watched})
            progress.say(json.dumps(rows[-1]))
    return rows


def _decode_all(listing: Listing, scratch: Path, size: int) -> float:
    """Return the seconds."""
    parts = Parts(scratch, size, "crop")
    started = time.perf_counter()
    decode_all(listing, parts, "crop")
    return time.perf_counter() - started
