"""The predictor: a trained classifier that takes a list of images and returns a list of predictions.

    predictor = Predictor.load(directory)
    predictor.predict([Path("cat.png").read_bytes()])[0].class_name

Evaluation, the command line, serving and benchmarks use this one class, so all of them give the same answers. It knows
a checkpoint directory, and neither registries nor HTTP nor Ray. It imports PyTorch only if the engine needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raycls.data.decode import MAX_PIXELS
from raycls.data.transforms import read_square
from raycls.engines import build as engines
from raycls.engines.build import Device, Engine, Run
from raycls.models.card import ModelCard, load_card


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one image. `probabilities` are of all classes, in the order of the card, and sum to 1."""

    class_index: int
    class_name: str
    confidence: float
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def as_json(self, top_k: int = 0) -> dict[str, Any]:
        """Return the fields of the HTTP contract. With top_k > 0, add the top_k most probable classes, at most all."""
        answer: dict[str, Any] = {
            "class_index": self.class_index,
            "class_name": self.class_name,
            "confidence": self.confidence,
        }
        if top_k:
            order = np.argsort(-self.probabilities, kind="stable")[:top_k]
            answer["top_k"] = [
                {
                    "class_index": int(i),
                    "class_name": self.classes[i],
                    "confidence": float(self.probabilities[i]),
                }
                for i in order
            ]
        return answer


class Predictor:
    """A network that an engine runs, and the card that describes its input and its classes."""

    def __init__(self, run: Run, card: ModelCard, engine: Engine):
        self._run, self.card, self.engine = run, card, engine

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: Device | None = None,
        engine: Engine = "torch",
        threads: int | None = None,
    ) -> Predictor:
        """Return the predictor of a checkpoint directory, on the given device or else on the best one.

        For `threads` and for the errors raised, see raycls.engines.build.load.
        """
        run = engines.load(engine, directory, device or engines.best_device(), threads)
        return cls(run, load_card(directory), engine)

    def read(
        self, data: bytes, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None
    ) -> np.ndarray:
        """Return an encoded image as uint8 S×S×3. The same code packed the training data. Raises ImageError."""
        return read_square(
            data, self.card.image_size, self.card.resize, max_pixels=max_pixels, formats=formats
        )

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Return float32 N×C for uint8 N×S×S×3."""
        return self._run(batch)

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """Return float32 N×C for uint8 N×S×S×3. Each row sums to 1."""
        return softmax(self.logits(batch))

    def predictions(self, probabilities: np.ndarray) -> list[Prediction]:
        """Return one prediction for each row of `probabilities` (N×C)."""
        best = probabilities.argmax(1)
        return [
            Prediction(
                class_index=int(index),
                class_name=self.card.classes[index],
                confidence=float(row[index]),
                probabilities=row,
                classes=self.card.classes,
            )
            for index, row in zip(best, probabilities, strict=True)
        ]

    def predict(self, images: Sequence[bytes], *, max_pixels: int = MAX_PIXELS) -> list[Prediction]:
        """Return one prediction for each encoded image, in order. Raises ImageError for the first unreadable image."""
        if not images:
            return []
        batch = np.stack([self.read(data, max_pixels=max_pixels) for data in images])
        return self.predictions(self.probabilities(batch))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities, N×C, of logits, N×C. Each row sums to 1."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
