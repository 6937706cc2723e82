"""The weights that a training begins with: random ones, those of a checkpoint, or those of others.

first_weights(network, card, train, init=None, weights=None, workers=Workers())
"""

from __future__ import annotations

from pathlib import Path

from raycls.data.tensors import normalize
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import ModelCard
from raycls.models.networks import FastCNN
from raycls.models.weights import load_weights
from raycls.training.sampling import Split
from raycls.training.setup import whitening_sample
from raycls.training.shared_weights import on_this_node
from raycls.training.workers import Workers


def first_weights(
    network: Network,
    card: ModelCard,
    train: Split,
    *,
    init: Path | None,
    weights: str | None,
    workers: Workers,
) -> None:
    """Give a network of random weights those that it starts from. They are the first worker's on every worker.

    init, weights: as `raycls.training.loop.start` takes them. A fastcnn whose whitening is new computes it from images
    of the training split, which gives other rounding errors on another processor.
    """
    fresh = checkpoint.transfer(network, card, init) if init else ["whiten.weight"]
    if weights:
        load_weights(network, on_this_node(weights, card.network))
    elif isinstance(network, FastCNN) and "whiten.weight" in fresh and workers.rank == 0:
        sample = train.pixels(train.few(whitening_sample(card.image_size)))
        network.init_whitening(normalize(sample, card.mean, card.std))
    workers.broadcast(network.state_dict().values())
