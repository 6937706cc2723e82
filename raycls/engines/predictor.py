"""A trained classifier, list in, list out: the same one for evaluation, the command line, serving and benchmarks.

    predictor = Predictor.load(directory)
    predictor.predict([Path("cat.png").read_bytes()])[0].class_name

Knows a checkpoint directory and nothing of registries, HTTP or Ray; and of PyTorch only what its engine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raycls.data.transforms import MAX_PIXELS, decode, to_square
from raycls.engines import build as engines
from raycls.engines.build import Device, Engine, Run
from raycls.models.card import ModelCard, load_card


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's answer. `probabilities` holds every class, in the order of the card's classes; they sum to 1."""

    class_index: int
    class_name: str
    confidence: float
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def as_json(self, top_k: int = 0) -> dict[str, Any]:
        """The fields of the HTTP contract, with the `top_k` likeliest classes when asked for (at most all)."""
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
    """A network as an engine runs it, with the card that says how to feed it."""

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
        """From a checkpoint directory alone, on the given device or the best there is.

        threads of a CPU, and what is raised, are those of raycls.engines.build.load.
        """
        run = engines.load(engine, directory, device or engines.best_device(), threads)
        return cls(run, load_card(directory), engine)

    def prepare(self, image: Image.Image) -> np.ndarray:
        """uint8 S×S×3, by the very code that packed the training data."""
        return to_square(image, self.card.image_size)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """float32 N×C, for uint8 N×S×S×3."""
        return self._run(batch)

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """float32 N×C, each row summing to 1, for uint8 N×S×S×3."""
        return softmax(self.logits(batch))

    def predictions(self, probabilities: np.ndarray) -> list[Prediction]:
        """Name what `probabilities` says, row by row."""
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
        """Encoded images in, answers out, in order. Raises ImageError for the first that cannot be read."""
        if not images:
            return []
        batch = np.stack([self.prepare(decode(data, max_pixels=max_pixels)) for data in images])
        return self.predictions(self.probabilities(batch))


def softmax(logits: np.ndarray) -> np.ndarray:
    """float32 N×C of such logits, each row summing to 1."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
