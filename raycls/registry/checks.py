"""Check a version before it becomes champion, and choose its engine.

    version = examine(registry.resolve("cifar10/3"), champion)      # raises RefusedError

A version that fails a check would break clients: its checkpoint is complete, its network runs, its answers are finite,
it knows the champion's classes, and it is as accurate as it was registered. The same images time its engines, and the
fastest is stored with the version (raycls/engines/choice.py).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from raycls import progress, registry
from raycls.data.packed import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import (
    CheckpointError,
    DataError,
    RefusedError,
    RegistryError,
    UnknownDatasetError,
)
from raycls.models.card import ModelCard, load_card
from raycls.registry import ModelVersion

PROBE = 256  # images of the validation split
DEVIATIONS = 4  # standard deviations of a sample's accuracy: a larger loss is not chance


def examine(version: ModelVersion, champion: ModelVersion | None) -> ModelVersion:
    """Return the version with its engine chosen. Raises RefusedError, in one line, where it fails a check."""
    with progress.bar(f"examining {version.reference}"):
        images = _fit(version, champion)
    if images is None:
        progress.say("the engines are not timed: that takes real images")
        return version
    return registry.choose_engine(version, images)


def _fit(version: ModelVersion, champion: ModelVersion | None) -> np.ndarray | None:
    """Check the version, and return the images for it (uint8 N×S×S×3); None where this machine has none."""

    def refuse(why: str) -> RefusedError:
        return RefusedError(f"{version.reference} is refused: {why}")

    try:
        directory = registry.checkpoint(version)
        card = load_card(directory)
        if champion:
            _same_classes(card, champion, refuse)
        images, labels = _probe(card)
        predictor = Predictor.load(directory)
        pixels = np.stack([predictor.prepare(Image.fromarray(image)) for image in images])
        probabilities = predictor.probabilities(pixels)
    except RefusedError:
        raise
    except Exception as error:  # the network's own code may raise anything
        raise refuse((str(error).strip() or type(error).__name__).splitlines()[0]) from error
    if probabilities.shape != (len(images), len(card.classes)):
        raise refuse(f"it answers {probabilities.shape[1]} classes, its card has {len(card.classes)}")
    if not np.isfinite(probabilities).all():
        raise refuse("its answers are not finite")
    if labels is not None and "val_accuracy" in version.metrics:
        registered = version.metrics["val_accuracy"]
        now = float((probabilities.argmax(1) == labels).mean())
        if now < registered - DEVIATIONS * math.sqrt(max(registered * (1 - registered), 0.01) / len(labels)):
            raise refuse(
                f"{now:.1%} of {len(labels)} validation images are right, not {registered:.1%} as registered"
            )
    return None if labels is None else pixels


def _same_classes(card: ModelCard, champion: ModelVersion, refuse: Any) -> None:
    try:
        known = load_card(registry.checkpoint(champion)).classes
    except (RegistryError, CheckpointError) as error:
        progress.say(f"the classes are not compared with the champion's: {error}")
        return
    if card.classes != known:
        missing = sorted(set(known) - set(card.classes))
        what = f"it does not know {', '.join(missing[:5])}" if missing else "its classes are others"
        raise refuse(
            f"{what}, which champion {champion.reference} answers; --new-classes promotes it all the same"
        )


def _probe(card: ModelCard) -> tuple[np.ndarray, np.ndarray | None]:
    """Return validation images of the model's dataset with labels, or noise without labels where it is not here."""
    random = np.random.default_rng(0)
    try:
        dataset = open_dataset(card.dataset)
    except (UnknownDatasetError, DataError):
        dataset = None
    if dataset is None or dataset.manifest.fingerprint != card.dataset_fingerprint:
        progress.say(f"dataset {card.dataset} is not here as it was: the accuracy is not examined")
        side = card.image_size
        return random.integers(0, 256, (16, side, side, 3), dtype=np.uint8), None
    labels = dataset.labels("val")
    chosen = np.sort(random.choice(len(labels), min(PROBE, len(labels)), replace=False))
    return np.asarray(dataset.images("val")[chosen]), np.asarray(labels[chosen])
