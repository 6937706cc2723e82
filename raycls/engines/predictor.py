"""The predictor: a trained classifier that takes a list of images and returns a list of predictions.

    predictor = Predictor.load(directory)
    predictor.predict([Path("cat.png").read_bytes()])[0].class_name
    logits, embeddings = predictor.outputs(batch)      # uint8 N×S×S×3 to float32 N×C and N×D, in one pass

Every engine's logits are divided by the card's temperature here and nowhere else. Evaluation, the command line, serving
and benchmarks use this one class, so all of them give the same answers with the same confidence. It knows a checkpoint
directory, and neither registries nor HTTP nor Ray. It imports PyTorch only if the engine needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raycls.data.decode import MAX_PIXELS
from raycls.data.transforms import Square, read_square_and_size
from raycls.engines import build as engines
from raycls.engines.build import Device, Engine, Run
from raycls.engines.memory import InParts
from raycls.engines.rejection import Rejection
from raycls.models.card import ModelCard, load_card


class Prediction(NamedTuple):
    """The answer for one image. A named tuple, because a frozen dataclass takes three times as long to make.

    probabilities: float32 C, of all classes, in the order of the card; they sum to 1. embedding: float32 D, the input
    of the network's head. rejected: whether the confidence is below the threshold of `raycls reject`; None without one.
    """

    class_index: int
    class_name: str
    confidence: float
    probabilities: np.ndarray
    embedding: np.ndarray
    classes: tuple[str, ...]
    rejected: bool | None = None

    def as_json(self, top_k: int = 0, *, embedding: bool = False) -> dict[str, Any]:
        """Return the fields of the HTTP contract.

        With top_k > 0, add the top_k most probable classes, at most all. With embedding, add it as a list of numbers.
        """
        answer: dict[str, Any] = {
            "class_index": self.class_index,
            "class_name": self.class_name,
            "confidence": self.confidence,
        }
        if self.rejected is not None:
            answer["rejected"] = self.rejected
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
        if embedding:
            answer["embedding"] = self.embedding.tolist()
        return answer


class Predictor:
    """A network that an engine runs, and the card that describes its input and its classes."""

    def __init__(self, run: Run, card: ModelCard, engine: Engine, rejection: Rejection | None = None):
        self._run, self.card, self.engine = run, card, engine
        self.limits = rejection.limits(card.classes) if rejection else None

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: Device | None = None,
        engine: Engine = "torch",
        threads: int | None = None,
        rejection: Rejection | None = None,
    ) -> Predictor:
        """Return the predictor of a checkpoint directory, on the given device or else on the best one.

        For `threads` and for the errors raised, see raycls.engines.build.load. rejection: the version's, where its
        predictions shall say whether they are rejected.
        """
        run = engines.load(engine, directory, device or engines.best_device(), threads)
        return cls(InParts(run), load_card(directory), engine, rejection)

    def read(
        self, data: bytes, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None
    ) -> np.ndarray:
        """Return an encoded image as uint8 S×S×3. The same code packed the training data. Raises ImageError."""
        return self.read_with_size(data, max_pixels=max_pixels, formats=formats).pixels

    def read_with_size(
        self, data: bytes, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None
    ) -> Square:
        """Return the pixels of `read`, with width and height of the encoded image. Raises ImageError."""
        return read_square_and_size(
            data, self.card.image_size, self.card.resize, max_pixels=max_pixels, formats=formats
        )

    def at_temperature(self, temperature: float) -> Predictor:
        """Return a predictor that runs the same network and divides its logits by this temperature."""
        return Predictor(self._run, self.card.model_copy(update={"temperature": temperature}), self.engine)

    def outputs(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits (float32 N×C) and embeddings (float32 N×D) for uint8 N×S×S×3, computed in one pass.

        The logits are calibrated: divided by the card's temperature (Guo et al., arXiv:1706.04599). A loaded predictor
        computes a batch that does not fit into memory in parts.
        """
        logits, embeddings = self._run(batch)
        temperature = self.card.temperature
        return logits if temperature == 1 else logits / np.float32(temperature), embeddings

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Return calibrated logits, float32 N×C, for uint8 N×S×S×3."""
        return self.outputs(batch)[0]

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """Return float32 N×C for uint8 N×S×S×3. Each row sums to 1."""
        return softmax(self.logits(batch))

    def predictions(self, logits: np.ndarray, embeddings: np.ndarray) -> list[Prediction]:
        """Return one prediction for each row of what `outputs` returns: logits (N×C) and embeddings (N×D)."""
        return predictions_of(softmax(logits), embeddings, self.card.classes, self.limits)

    def predict(self, images: Sequence[bytes], *, max_pixels: int = MAX_PIXELS) -> list[Prediction]:
        """Return one prediction for each encoded image, in order. Raises ImageError for the first unreadable image."""
        if not images:
            return []
        batch = np.stack([self.read(data, max_pixels=max_pixels) for data in images])
        return self.predictions(*self.outputs(batch))


def predictions_of(
    probabilities: np.ndarray,
    embeddings: np.ndarray,
    classes: tuple[str, ...],
    limits: np.ndarray | None = None,
) -> list[Prediction]:
    """Return one prediction for each row of probabilities (float32 N×C) and embeddings (float32 N×D).

    limits: of `Rejection.limits`; None: no answer is rejected.
    """
    best = probabilities.argmax(1)
    return [
        Prediction(
            class_index=int(index),
            class_name=classes[index],
            confidence=float(row[index]),
            probabilities=row,
            embedding=embedding,
            classes=classes,
            rejected=None if limits is None else bool(row[index] < limits[index]),
        )
        for index, row, embedding in zip(best, probabilities, embeddings, strict=True)
    ]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities, N×C, of logits, N×C. Each row sums to 1."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
