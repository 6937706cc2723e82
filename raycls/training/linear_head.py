"""A regularised linear head, fitted to what a network makes of each image: logistic regression.

    found = features(network, train, indices, card, dtype, workers)
    weight, bias = fitted(found, labels, other, known, classes)
    fit_head(network, card, train, val, config, workers)      # both, and the network has the head

Each image is embedded once. L-BFGS finds the head for each of several strengths of the regularisation, and other images
choose one. As a probe, it is the yardstick that fine-tuning must beat; as the start of fine-tuning, its errors do not
spoil the layers before it (Kumar et al., arXiv:2202.10054).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from raycls import progress
from raycls.config import Config
from raycls.models.base import Network
from raycls.models.card import ModelCard
from raycls.models.forward import compute_dtype, forward
from raycls.training.sampling import Split
from raycls.training.workers import Workers

# Strengths of the regularisation: half of it × the squared weights is added to the mean loss. From strong to weak, each
# one's weights being the start of the next one's search.
STRENGTHS = tuple(10.0**exponent for exponent in (0.5, 0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4))
WORSE = 2  # strengths in a row that are worse on the other images, after which no weaker one is tried
STEPS = 60  # of L-BFGS for one strength
EMBED_PIXELS = 64 * 224 * 224  # of the images of one forward pass
MOST_IMAGES = (
    50_000  # of train that a head is fitted to before fine-tuning; each worker has their features in memory
)
MOST_JUDGES = 10_000  # of val that choose its strength
JUDGES = 5  # each so many-th training image chooses the strength where there is no split val


def features(
    network: Network,
    split: Split,
    indices: Tensor,
    card: ModelCard,
    dtype: torch.dtype,
    workers: Workers,
    embedded: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Return the embeddings (float32 N×D) of a split's images at indices (int64 N), the same on all workers.

    Each worker computes its part. embedded: called with the number of images of each pass.
    """
    device = next(network.parameters()).device
    network.eval()
    found = torch.zeros(len(indices), network.head.in_features, device=device)
    size = max(1, EMBED_PIXELS // card.image_size**2)
    rows = workers.share(torch.arange(len(indices), device=indices.device)).split(size)
    for part, batch in zip(rows, split.ahead(indices[part] for part in rows), strict=True):
        found[part.to(device)] = forward(network, batch.pixels, card, dtype)[1]
        embedded(len(part))
    workers.complete(found, device)
    return found


def fit_head(
    network: Network, card: ModelCard, train: Split, val: Split, config: Config, workers: Workers
) -> None:
    """Give a network the head that a probe of MOST_IMAGES would find. Where val is empty, a part of train judges it."""
    device = next(network.parameters()).device
    dtype = compute_dtype(config.training.precision, device)
    chosen = _thinned(train.chosen.sort().values, MOST_IMAGES)  # as they lie in the file
    every = _thinned(val.every(), MOST_JUDGES)
    with progress.bar(f"fitting the head to {len(chosen) + len(every):,} images"):
        found, labels = features(network, train, chosen, card, dtype, workers), train.labels[chosen]
        if len(every):
            other, known = features(network, val, every, card, dtype, workers), val.labels[every]
        else:
            judges = torch.arange(len(labels), device=device) % JUDGES == 0
            other, known, found, labels = found[judges], labels[judges], found[~judges], labels[~judges]
        weights = head_weights(train, card, config)
        put(network, fitted(found, labels, other, known, len(card.classes), weights), workers)


def _thinned(indices: Tensor, most: int) -> Tensor:
    """Return at most so many of the indices (int64 N), evenly spread."""
    return indices[:: max(1, math.ceil(len(indices) / most))]


def head_weights(train: Split, card: ModelCard, config: Config) -> Tensor | None:
    """Return the weight of each class in a head's loss (float32 C), or None where all have the same."""
    if config.training.balance == "none":
        return None
    return train.class_weights(len(card.classes)).to(train.labels.device)


@torch.no_grad()
def put(network: Network, head: tuple[Tensor, Tensor], workers: Workers) -> None:
    """Give a network the weight and the bias of a head: the same everywhere, whatever the machine."""
    workers.average([*head])
    network.head.weight.copy_(head[0])
    network.head.bias.copy_(head[1])


def fitted(
    features: Tensor,
    labels: Tensor,
    other: Tensor,
    known: Tensor,
    classes: int,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weight (float32 C×D) and the bias (float32 C) of the head with the lowest log loss on other images.

    features: float32 N×D, of labels int64 N. other, known: the same of the images that choose the strength.
    class_weights: float32 C, of each class in the loss.
    """
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    scaled, apart = (features - mean) / deviation, (other - mean) / deviation
    parameters = torch.zeros(classes, features.shape[1] + 1, device=features.device, requires_grad=True)
    best, lowest, worse = parameters.detach().clone(), float("inf"), 0
    for strength in STRENGTHS:
        _minimise(parameters, scaled, labels, strength, class_weights)
        with torch.no_grad():
            logits = F.linear(apart, parameters[:, :-1], parameters[:, -1])
            loss = F.cross_entropy(logits, known, weight=class_weights).item()
        if loss < lowest:
            best, lowest, worse = parameters.detach().clone(), loss, 0
        elif (worse := worse + 1) == WORSE:
            break
    weight = best[:, :-1] / deviation
    return weight, best[:, -1] - weight @ mean


def _minimise(
    parameters: Tensor, features: Tensor, labels: Tensor, strength: float, class_weights: Tensor | None
) -> None:
    """Find the parameters (C×(D+1), the last column the bias) with the lowest loss, from those that are there."""
    search = torch.optim.LBFGS(
        [parameters], max_iter=STEPS, history_size=10, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        logits = F.linear(features, parameters[:, :-1], parameters[:, -1])
        value = F.cross_entropy(logits, labels, weight=class_weights)
        value = value + strength / 2 * parameters[:, :-1].square().sum()
        value.backward()
        return value

    search.step(loss)
