"""One image of a dataset version as bytes, and back.

    data = encode(pixels, lossy=False)     # uint8 S×S×3 to a WebP file
    pixels = decode(data, 224)

An image is encoded at the dataset's size, after everything that raycls/data/transforms.py does. So what training
decodes has been through the same code as what serving reads. Images of val, gate and test are lossless: they have the
pixels of packed arrays, so every figure of a model is the same. Images of train from LOSSY_FROM pixels on are JPEG.
`python benchmarks/streaming_data.py formats` measures the formats. This module knows single images only.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from raycls import machine
from raycls.data.transforms import to_square

# Pixels a side. Below, lossless WebP takes less than twice the bytes of this JPEG, whose error grows as images shrink.
LOSSY_FROM = 96
# The colours are not halved (4:4:4): halving them doubles the error of small images and saves a seventh of the bytes.
LOSSY: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}
# The fastest method: the others take 4 times as long and save a tenth of the bytes.
LOSSLESS: dict[str, Any] = {"format": "WEBP", "lossless": True, "quality": 0, "method": 0}
FORMATS = ("JPEG", "WEBP")
MANY = 32  # images that are worth threads


def is_lossy(split: str, side: int) -> bool:
    """Return whether images of a split are stored as JPEG. side: pixels."""
    return split == "train" and side >= LOSSY_FROM


def encode(pixels: np.ndarray, lossy: bool) -> bytes:
    """Return an image, uint8 S×S×3, as a file in memory."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **(LOSSY if lossy else LOSSLESS))
    return file.getvalue()


def decode(data: bytes, side: int) -> np.ndarray:
    """Return uint8 side×side×3 of what `encode` returned, resized as preparation does. Raises OSError if damaged."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return to_square(image, side)


def encode_all(images: Sequence[np.ndarray] | np.ndarray, lossy: bool) -> list[bytes]:
    """Return each image as `encode` does, computed by one thread for each core."""
    with ThreadPoolExecutor(machine.cores()) as threads:
        return list(threads.map(lambda pixels: encode(pixels, lossy), images))


def decode_all(encoded: Sequence[bytes], side: int) -> np.ndarray:
    """Return uint8 N×side×side×3, decoded by one thread for each core where there are many. Raises OSError."""
    found = np.empty((len(encoded), side, side, 3), np.uint8)

    def put(row: int) -> None:
        found[row] = decode(encoded[row], side)

    if len(encoded) < MANY:
        for row in range(len(encoded)):
            put(row)
    else:
        with ThreadPoolExecutor(machine.cores()) as threads:
            list(threads.map(put, range(len(encoded))))
    return found
