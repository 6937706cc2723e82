"""A file that takes pictures of any size, beside what serving answers, on pictures of a folder.

    found = compare(checkpoint_directory, run, chosen_pictures(Path("photos")))
    found.same_class, found.max_confidence_difference

Serving gets the encoded picture, and the file its decoded pixels. So the difference is that of the resizing, and of a
large JPEG that serving decodes at a part of its size.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raycls import progress
from raycls.data.decode import decode
from raycls.engines.build import Run
from raycls.engines.predictor import Predictor, softmax
from raycls.errors import ImageError, UsageError

PICTURES = 200  # most of a folder that are compared


@dataclass(frozen=True, kw_only=True)
class OnPictures:
    """same_class: share of the pictures of which the file gives serving's class. Confidences are in 0..1.

    smallest, largest: sizes in pixels, WIDTH×HEIGHT, by area. ms: median time of one picture, without decoding.
    """

    pictures: int
    same_class: float
    max_confidence_difference: float
    mean_confidence_difference: float
    smallest: str
    largest: str
    ms: float


def chosen_pictures(folder: Path) -> list[Path]:
    """Return at most PICTURES random files of a folder that are pictures, always the same. Raises UsageError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found: list[Path] = []
    for index in np.random.default_rng(0).permutation(len(files)):
        try:
            decode(files[index].read_bytes())
        except ImageError:
            continue
        found.append(files[index])
        if len(found) == PICTURES:
            break
    if not found:
        raise UsageError(f"{folder} has no pictures: give a folder of photographs such as the file will meet")
    return found


def compare(directory: Path, run: Run, files: list[Path]) -> OnPictures:
    """Return how a file's answers differ from serving's. run: takes uint8 1×H×W×3."""
    predictor = Predictor.load(directory, device="cpu", engine="reference")
    served, answered, sizes, times = [], [], [], []
    with progress.bar(f"comparing on {len(files)} pictures", total=len(files)) as bar:
        for file in files:
            data = file.read_bytes()
            served.append(predictor.predict([data])[0].probabilities)
            pixels = np.asarray(decode(data))
            started = time.perf_counter()
            logits, _ = run(pixels[None])
            times.append(1000 * (time.perf_counter() - started))
            answered.append(softmax(logits)[0])
            sizes.append((pixels.shape[1], pixels.shape[0]))
            bar.advance()
    own, other = np.stack(served), np.stack(answered)
    difference = np.abs(own.max(1) - other.max(1))
    sizes.sort(key=lambda size: size[0] * size[1])
    return OnPictures(
        pictures=len(files),
        same_class=float((own.argmax(1) == other.argmax(1)).mean()),
        max_confidence_difference=float(difference.max()),
        mean_confidence_difference=float(difference.mean()),
        smallest="×".join(map(str, sizes[0])),
        largest="×".join(map(str, sizes[-1])),
        ms=statistics.median(times),
    )
