"""Check whether a model version is fit to serve, and choose its engine.

    version = examine(registry.resolve("cifar10/3"), champion)      # raises RefusedError

The checks protect clients from a broken model. The checkpoint must be complete. The network must run, and its outputs
must be finite. It must know the classes of the champion that it replaces. Its accuracy must be close to the registered
one. Then the engines are measured on the whole split, and the fastest of the accurate ones is stored with the version
(raycls/engines/choice.py).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raycls import progress, registry
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_by_fingerprint
from raycls.engines.examples import match
from raycls.engines.predictor import Predictor
from raycls.errors import (
    CheckpointError,
    DataError,
    RefusedError,
    RegistryError,
    UnknownDatasetError,
)
from raycls.models.card import SEEN, ModelCard, load_card
from raycls.registry import ModelVersion
from raycls.registry.policy import PromotionPolicy

PROBE = 256  # number of validation images in the check
DEVIATIONS = 4  # a version fails if its accuracy is this many standard deviations below the registered one


def examine(version: ModelVersion, champion: ModelVersion | None, policy: PromotionPolicy) -> ModelVersion:
    """Return the version with its engine chosen. Raises RefusedError if the version fails a check."""
    with progress.bar(f"examining {version.reference}"):
        dataset = _fit(version, champion)
    return registry.choose_engine(version, dataset, policy)


def _fit(version: ModelVersion, champion: ModelVersion | None) -> PackedDataset | None:
    """Check the version. Return the dataset that it learned from, or None if this machine does not have it.

    Raises RefusedError if the version fails a check.
    """

    def refuse(why: str) -> RefusedError:
        return RefusedError(f"{version.reference} is refused: {why}")

    try:
        directory = registry.checkpoint(version)
        card = load_card(directory)
        if champion:
            _same_classes(card, champion, refuse)
        dataset = _dataset(card)
        images, labels = _probe(card, dataset)
        predictor = Predictor.load(directory)
        probabilities = predictor.probabilities(images)
    except RefusedError:
        raise
    except Exception as error:  # a network may raise any error
        raise refuse((str(error).strip() or type(error).__name__).splitlines()[0]) from error
    if probabilities.shape != (len(images), len(card.classes)):
        raise refuse(f"it answers {probabilities.shape[1]} classes, its card has {len(card.classes)}")
    if not np.isfinite(probabilities).all():
        raise refuse("its answers are not finite")
    # A model that learned val is compared with itself alone here, which the pictures that it knows show as well.
    registered = version.metrics.get("val_accuracy", version.metrics.get(SEEN))
    if labels is not None and registered is not None:
        now = float((probabilities.argmax(1) == labels).mean())
        if now < registered - DEVIATIONS * math.sqrt(max(registered * (1 - registered), 0.01) / len(labels)):
            raise refuse(
                f"{now:.1%} of {len(labels)} images of val are right, not {registered:.1%} as registered"
            )
    return dataset


def _same_classes(card: ModelCard, champion: ModelVersion, refuse: Any) -> None:
    try:
        known = load_card(registry.checkpoint(champion)).classes
    except (RegistryError, CheckpointError) as error:
        progress.say(f"the classes are not compared with the champion's: {error}")
        return
    if (
        card.classes[: len(known)] != known
    ):  # new classes come last, so that a client's class indices stay right
        missing = sorted(set(known) - set(card.classes))
        what = f"it does not know {', '.join(missing[:5])}" if missing else "its classes have another order"
        raise refuse(
            f"{what}, which champion {champion.reference} answers; --new-classes accepts it all the same"
        )


def _dataset(card: ModelCard) -> PackedDataset | None:
    try:
        return open_by_fingerprint(*card.learned_from)
    except (UnknownDatasetError, DataError):
        progress.say(
            f"dataset {card.dataset}@{card.dataset_version} is not here: the accuracy is not examined"
        )
        return None


def _probe(card: ModelCard, dataset: PackedDataset | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return validation images of the model's dataset (uint8 N×S×S×3) and their labels, or random noise and None."""
    random = np.random.default_rng(0)
    if dataset is None:
        side = card.image_size
        return random.integers(0, 256, (16, side, side, 3), dtype=np.uint8), None
    examples = match(card, dataset, "val")
    chosen = np.sort(random.choice(len(examples), min(PROBE, len(examples)), replace=False))
    return examples.pixels(chosen), examples.columns[examples.labels[chosen]]
