"""The images that a load test sends: encoded images in a folder with one subfolder per class.

    write_images(open_dataset("cifar10"), Path("images"), count=1000)   # PNG, from the test split
    read_images(Path("images"))[0].label

They are files and not arrays, so that a folder of photographs can replace them.
"""

from __future__ import annotations

import mimetypes
import random
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from raycls.errors import UsageError

if TYPE_CHECKING:
    from raycls.data.packed import PackedDataset

MAX_IMAGES = 2000


class EncodedImage(NamedTuple):
    body: bytes
    content_type: str
    label: str | None


def write_images(dataset: PackedDataset, directory: Path, count: int) -> None:
    """Write `count` images of the test split, evenly spread, as CLASS/INDEX.png; all images of a smaller split."""
    images, labels = dataset.images("test"), dataset.labels("test")
    for index in _spread(len(labels), count):
        folder = directory / dataset.info.classes[labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(folder / f"{index}.png")


def read_images(directory: Path) -> list[EncodedImage]:
    """Return the image files under directory (at most 2,000, evenly spread), in a fixed random order.

    The label of an image is the name of its subfolder. Raises UsageError if there are no images.
    """
    kinds = {path: mimetypes.guess_type(path.name)[0] or "" for path in sorted(directory.rglob("*"))}
    paths = [path for path, kind in kinds.items() if kind.startswith("image/") and path.is_file()]
    if not paths:
        raise UsageError(f"there are no images in {directory}: give a folder of PNG or JPEG images")
    paths = [paths[index] for index in _spread(len(paths), MAX_IMAGES)]
    random.Random(0).shuffle(paths)
    return [
        EncodedImage(path.read_bytes(), kinds[path], None if path.parent == directory else path.parent.name)
        for path in paths
    ]


def _spread(length: int, count: int) -> list[int]:
    return np.linspace(0, length - 1, min(length, count)).astype(int).tolist()
