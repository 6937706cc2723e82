"""Small pictures that are as unlike each other as photographs, and what is stored of them."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from raycls.lifecycle.records import Record
from raycls.lifecycle.uploads import Uploads

CLASSES = ("cat", "dog")


def image(seed: int, side: int = 24) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def png(seed: int, side: int = 24) -> bytes:
    buffer = io.BytesIO()
    image(seed, side).save(buffer, "PNG")
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stored(uploads: Uploads, name: str = "pets") -> list[Record]:
    """Return the records of a dataset, after a check that each has its picture, whole."""
    records = uploads.of(name)
    for record in records:
        assert digest(uploads.picture(record.sha256)) == record.sha256
    return records
