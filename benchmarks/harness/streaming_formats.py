"""Bytes, time and error of the formats in which a dataset version could store its images.

measure("photos/", count=50)     # a row for each size and format
"""

from __future__ import annotations

import io
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raycls.data.codec import LOSSLESS, LOSSY
from raycls.data.transforms import read_square
from raycls.errors import BenchmarkError

SIDES = (32, 64, 96, 224)
REPEATS = 3
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG 95, 4:4:4 (train from 96 pixels)": LOSSY,
    "JPEG 90, 4:4:4": {**LOSSY, "quality": 90},
    "JPEG 90, 4:2:0": {**LOSSY, "quality": 90, "subsampling": 2},
    "PNG, level 1": {"format": "PNG", "compress_level": 1},
    "WebP, lossless (all others)": LOSSLESS,
}


def measure(images: str, count: int) -> list[dict[str, Any]]:
    """Return for each size and format: share of the pixels' bytes, ms to encode and decode an image, and the error."""
    files = sorted(
        path for path in Path(images).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    if not files:
        raise BenchmarkError(f"{images} has no JPEG or PNG: give a folder of photographs")
    chosen = [path.read_bytes() for path in random.Random(0).sample(files, min(count, len(files)))]
    rows = []
    for side in SIDES:
        squares = [read_square(data, side) for data in chosen]
        rows += [{"side": side, "format": name, **_of(squares, how)} for name, how in FORMATS.items()]
    return rows


def _of(squares: list[np.ndarray], how: dict[str, Any]) -> dict[str, float]:
    encode, decode = [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        files = []
        for square in squares:
            file = io.BytesIO()
            Image.fromarray(square).save(file, **how)
            files.append(file.getvalue())
        encode.append(time.perf_counter() - started)
        started = time.perf_counter()
        found = [np.asarray(Image.open(io.BytesIO(data), formats=(how["format"],))) for data in files]
        decode.append(time.perf_counter() - started)
    error = np.stack(found).astype(float) - np.stack(squares)
    return {
        "share": sum(map(len, files)) / np.stack(squares).nbytes,
        "encode_ms": 1000 * min(encode) / len(squares),
        "decode_ms": 1000 * min(decode) / len(squares),
        "error": float(np.sqrt((error**2).mean())),
    }
