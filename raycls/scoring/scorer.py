"""Scores parts: reads, decodes and classifies their pictures, and writes their rows.

    scorer = Scorer(task)
    scorer.score(12)             # the counts of part 12, when its scores are written

One process does all of it for a part, so that no picture crosses from one process to another. Pictures are decoded and
classified as serving does, by the same code, with the same formats and limits (raycls/serving/replica/inference.py).
This module does not know Ray: raycls/scoring/actor.py runs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from raycls import registry
from raycls.data.class_names import printable
from raycls.data.decode import MAX_PIXELS
from raycls.data.files import shown
from raycls.data.sources.pictures import Picture, PictureSource
from raycls.data.transforms import at_side
from raycls.engines.build import Device
from raycls.engines.predictor import Predictor, softmax
from raycls.errors import ClusterError, ImageError
from raycls.scoring.ledger import Ledger, Plan
from raycls.scoring.reading import Content, Reading
from raycls.scoring.rows import Counts, Rows, counts
from raycls.serving.settings import FORMATS

BATCH: dict[Device, int] = {"cpu": 64, "cuda": 256}  # pictures of a forward pass
MOST_AGAIN = 4  # times that a part is begun by a process that took the place of a dead one


@dataclass(frozen=True)
class Task:
    """What every actor is told. threads: of the decoding. give_way: to the replicas of a server on the same machine."""

    source: PictureSource
    output: str
    plan: Plan
    version: registry.ModelVersion
    device: Device
    threads: int
    give_way: bool


class Scorer:
    """Keeps the model of a task. again: this process took the place of one that died.

    Raises EngineError, RegistryError and CheckpointError.
    """

    def __init__(self, task: Task, *, again: bool = False):
        self._task, self._again = task, again
        self._ledger = Ledger(task.output)
        self._reading = Reading(task.source)
        self._pool = ThreadPoolExecutor(task.threads) if task.threads > 1 else None
        assert task.plan.engine
        self._predictor = Predictor.load(
            registry.checkpoint(task.version),
            device=task.device,
            engine=task.plan.engine,
            threads=task.threads if task.device == "cuda" else 1,
        )

    def score(self, part: int) -> Counts:
        """Score a part and write it, unless a process that died since has done so. Return what it holds.

        Raises DataError if the scores cannot be written, and ClusterError for a part that ends process after process.
        """
        plan = self._task.plan
        if self._again:
            if (file := self._ledger.scores(part, plan.format)) is not None:
                return counts(file, plan.format)
            if self._ledger.begun_again(part) > MOST_AGAIN:
                raise ClusterError(
                    f"part {part} ended {MOST_AGAIN} processes that scored it: memory may be short, or one of its "
                    f"pictures ends what decodes it. {shown(self._task.output)}/_ledger/listing/{part:08}.gz "
                    "names them"
                )
        rows = Rows(plan, self._predictor.card.classes)
        pictures = self._ledger.pictures(part)
        contents = self._reading.contents(pictures)
        for some in _batches(pictures, BATCH[self._task.device]):
            self._add(rows, some, list(islice(contents, len(some))))
        self._ledger.write_part(part, rows.file(), plan.format)
        return rows.counts()

    def _add(self, rows: Rows, pictures: Sequence[Picture], contents: Sequence[Content]) -> None:
        """Classify some pictures, and add their rows."""
        found = list((self._pool.map if self._pool else map)(self._pixels, contents))
        squares = [pixels for pixels in found if isinstance(pixels, np.ndarray)]
        classes, dimension = len(self._predictor.card.classes), 0
        probabilities, embeddings = np.empty((0, classes), np.float32), np.empty((0, dimension), np.float32)
        if squares:
            logits, embeddings = self._predictor.outputs(np.stack(squares))
            probabilities = softmax(logits)
        rows.add(
            [picture.name for picture in pictures],
            [_sha256(*each) for each in zip(pictures, contents, strict=True)],
            [None if isinstance(each, np.ndarray) else each for each in found],
            probabilities,
            embeddings,
        )

    def _pixels(self, content: Content) -> np.ndarray | str:
        """Return uint8 S×S×3 of a picture, or why there are none."""
        if isinstance(content, np.ndarray):
            return at_side(content[None], self._predictor.card.image_size)[0]
        try:
            if isinstance(content, OSError):
                raise content
            return self._predictor.read(content, max_pixels=MAX_PIXELS, formats=FORMATS)
        except (OSError, ImageError) as error:
            # It may quote a URI, or a file's name that is no UTF-8.
            return printable(shown(getattr(error, "strerror", None) or str(error)))


def _batches(pictures: Sequence[Picture], most: int) -> Iterator[Sequence[Picture]]:
    for start in range(0, len(pictures), most):
        yield pictures[start : start + most]


def _sha256(picture: Picture, content: Content) -> str | None:
    """Return the SHA-256 of the encoded bytes. A dataset version keeps that of the file that its pixels come from."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return str(picture.where[3]) or None if isinstance(content, np.ndarray) else None
