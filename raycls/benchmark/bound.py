"""The upper bound of this machine's throughput: one bare process per core decodes images and runs forward passes.

    images_per_s(checkpoint_directory, images, "openvino", seconds=3)

There is no HTTP, no queue and no Ray. A server with the same engine can come near the bound but not exceed it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from raycls import machine
from raycls.benchmark.images import read_images
from raycls.config import Engine
from raycls.engines.build import ENGINES
from raycls.engines.predictor import Predictor
from raycls.errors import BenchmarkError

BATCH = 32
PASSES = 50  # forward passes of one image, without pauses


def images_per_s(directory: Path, images: Path, engine: Engine, *, seconds: float) -> float:
    """Return the throughput of all cores together, images/s, decoding included. Raises BenchmarkError."""
    return sum(_run(directory, images, engine, machine.cores(), "many", seconds))


def one_image_ms(directory: Path, images: Path, engine: Engine) -> float:
    """Return the median time of a forward pass of a single image on one core, ms. Raises BenchmarkError."""
    return _run(directory, images, engine, 1, "one", 0.0)[0]


def _run(directory: Path, images: Path, engine: Engine, count: int, what: str, seconds: float) -> list[float]:
    command = [sys.executable, "-m", __name__, str(directory), str(images), engine, what, str(seconds)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)
    ]
    try:
        for child in children:
            assert child.stdout
            if child.stdout.readline() != b"ready\n":
                raise BenchmarkError("a process that measures the bound failed; the lines above say why")
        for child in children:
            assert child.stdin
            child.stdin.write(b"go\n")
            child.stdin.flush()
        told = [child.communicate()[0] for child in children]
        if any(child.returncode for child in children):
            raise BenchmarkError("a process that measures the bound failed; the lines above say why")
        return [json.loads(answer) for answer in told]
    finally:
        for child in children:
            child.kill()
            child.wait()


def _many(predictor: Predictor, encoded: list[bytes], seconds: float) -> float:
    done, started = 0, time.perf_counter()
    position = itertools.cycle(range(0, len(encoded) - BATCH + 1, BATCH))
    while time.perf_counter() - started < seconds:
        start = next(position)
        batch = [predictor.read(data) for data in encoded[start : start + BATCH]]
        predictor.probabilities(np.stack(batch))
        done += BATCH
    return done / (time.perf_counter() - started)


def _one(predictor: Predictor, encoded: list[bytes]) -> float:
    times = []
    for data in encoded[:PASSES]:
        batch = predictor.read(data)[None]
        started = time.perf_counter()
        predictor.probabilities(batch)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("what", choices=["one", "many"])
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    predictor = Predictor.load(options.checkpoint, engine=options.engine, threads=1)
    encoded = [image.body for image in read_images(options.images)]
    encoded *= -(-max(BATCH, PASSES) // len(encoded))
    _many(predictor, encoded, 0.5)
    print("ready", flush=True)
    sys.stdin.readline()
    found = _many(predictor, encoded, options.seconds) if options.what == "many" else _one(predictor, encoded)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
