"""The bare peer of `raycls score`: one process that reads, decodes and classifies files with the same engine.

    python benchmarks/peers/scoring/bare.py CHECKPOINT openvino files.txt 0 2     # part 0 of 2 of the files

It has no Ray, keeps no ledger and writes nothing. It prints `ready`, waits for a line on stdin, and then prints the
seconds that its part took. benchmarks/harness/scale_scoring.py starts one for each core.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from raycls import command
from raycls.engines.predictor import Predictor, softmax
from raycls.errors import ImageError
from raycls.serving.settings import FORMATS

BATCH = 64


def main(arguments: list[str]) -> None:
    """Classify a part of the files. Raises EngineError and CheckpointError."""
    checkpoint, engine, listed, part, parts = arguments
    predictor = Predictor.load(Path(checkpoint), engine=engine, threads=1)  # type: ignore[arg-type]
    files = Path(listed).read_text().splitlines()[int(part) :: int(parts)]
    classify(predictor, files[: 2 * BATCH])
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    classify(predictor, files)
    print(time.perf_counter() - started, flush=True)


def classify(predictor: Predictor, files: list[str]) -> list[int]:
    """Return the index of each file's class, and -1 for one that cannot be read."""
    answers = [-1] * len(files)
    for start in range(0, len(files), BATCH):
        squares, places = [], []
        for place, file in enumerate(files[start : start + BATCH], start):
            try:
                squares.append(predictor.read(Path(file).read_bytes(), formats=FORMATS))
                places.append(place)
            except (OSError, ImageError):
                continue
        if squares:
            best = softmax(predictor.outputs(np.stack(squares))[0]).argmax(1)
            for place, index in zip(places, best.tolist(), strict=True):
                answers[place] = index
    return answers


if __name__ == "__main__":
    command.run(main)
