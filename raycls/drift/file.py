"""The reference of a model version as a file of its checkpoint directory, drift.json.

    write(directory, predictor, open_dataset("pets"))       # at the end of a training
    reference = read(directory)                             # in a replica, or None

A version without the file is served as every other one, and nobody watches its drift.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raycls import progress
from raycls.drift.reference import BINS, Reference, of_split
from raycls.engines.predictor import softmax
from raycls.errors import CheckpointError
from raycls.models.card import DRIFT

if TYPE_CHECKING:
    from raycls.data.packed import PackedDataset
    from raycls.engines.predictor import Predictor

# Ten images in each bin. A window needs as many (raycls/drift/examine.py): with fewer, chance makes effects large.
LEAST_IMAGES = 10 * BINS


def write(directory: Path, predictor: Predictor, dataset: PackedDataset) -> Reference | None:
    """Measure the split `val`, write the reference and return it. Return None where it has fewer than 100 images.

    Of a model that learned `val`, the split `test` is measured: it is surer of what it knows.

    predictor: of the directory, with its final temperature.
    """
    split = predictor.card.unseen
    if (count := dataset.info.counts[split]) < LEAST_IMAGES:
        progress.say(
            f"drift will not be watched: that takes {LEAST_IMAGES} images of {split}, there are {count}"
        )
        return None

    def outputs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, embeddings = predictor.outputs(images)
        return softmax(logits), embeddings

    reference = of_split(outputs, dataset, split, predictor.card.image_size)
    (directory / DRIFT).write_text(reference.as_json())
    return reference


def read(directory: Path) -> Reference | None:
    """Return the reference of a checkpoint directory, or None if it has none. Raises CheckpointError."""
    try:
        content = (directory / DRIFT).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{directory / DRIFT} cannot be read: {error.strerror}") from None
    return Reference.from_json(content)
