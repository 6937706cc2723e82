"""A linear probe: the body of a trained network stays as it is, and a regularised linear head learns from its features.

    training = Probe(config, card, network, train, val, workers, started)
    for metrics, snapshot in training.epochs(): …       # one epoch

Each image is embedded once. The head is a multinomial logistic regression with L2 regularisation, found by L-BFGS for
each of several strengths; the split val chooses one. It is the yardstick that fine-tuning must beat, in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raycls import metrics
from raycls.config import Config
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import ModelCard
from raycls.models.forward import compute_dtype, forward
from raycls.training import seal
from raycls.training.sampling import Split
from raycls.training.snapshot import Snapshot
from raycls.training.workers import Workers

# Strengths of the regularisation: half of it × the squared weights is added to the mean loss. From strong to weak, each
# one's weights being the start of the next one's search.
STRENGTHS = tuple(10.0**exponent for exponent in (0.5, 0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4))
WORSE = 2  # strengths in a row that are worse on val, after which no weaker one is tried
STEPS = 60  # of L-BFGS for one strength
EMBED_PIXELS = 64 * 224 * 224  # of the images of one forward pass


class Probe:
    """One worker's part of a probe, with the members of `raycls.training.loop.Training` that its callers use."""

    def __init__(
        self,
        config: Config,
        card: ModelCard,
        network: Network,
        train: Split,
        val: Split,
        workers: Workers,
        started: float,
    ):
        self.config, self.card, self.kept, self.workers = config, card, network, workers
        self.train, self.val, self._started = train, val, started
        self.device = next(network.parameters()).device
        self.dtype = compute_dtype(config.training.precision, self.device)
        self.history: list[dict[str, float]] = []

    @property
    def epoch(self) -> int:
        """Return how many epochs were trained: none or one."""
        return len(self.history)

    @property
    def finished(self) -> bool:
        """Return whether nothing is left to do."""
        return bool(self.history)

    def epochs(
        self, on_step: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[tuple[dict[str, float], Snapshot]]:
        """Yield the metrics, as `Training.epochs` does, and a snapshot; nothing where a resumed run has them."""
        if self.history:
            return
        total = len(self.train.chosen) + len(self.val.labels)
        done = 0

        def embedded(count: int) -> None:
            nonlocal done
            done += count * self.workers.size
            on_step(min(done, total), total)

        self.kept.eval()
        chosen = self.train.chosen.sort().values  # as they lie in the file
        features = self._features(self.train, chosen, embedded)
        labels = self.train.labels[chosen]
        other = self._features(self.val, self.val.every(), embedded)
        known = self.val.labels
        classes = len(self.card.classes)
        balanced = self.config.training.balance != "none"
        weights = self.train.class_weights(classes).to(self.device) if balanced else None
        weight, bias = fitted(features, labels, other, known, classes, weights)
        self.workers.average([weight, bias])  # the same everywhere, whatever the machine
        with torch.no_grad():
            self.kept.head.weight.copy_(weight)
            self.kept.head.bias.copy_(bias)
        seconds = time.perf_counter() - self._started
        learned = F.linear(features, weight, bias)
        found = {
            "epoch": 1,
            "train_loss": F.cross_entropy(learned, labels).item(),
            "train_accuracy": (learned.argmax(1) == labels).float().mean().item(),
            **_summary(F.linear(other, weight, bias), known, classes),
            "lr": 0.0,
            "images_per_s": total / seconds,
            "train_seconds": seconds,
        }
        self.history.append(found)
        yield (
            found,
            Snapshot(self.kept, self.card.model_copy(update={"metrics": found}), {"history": self.history}),
        )

    def load(self, directory: Path) -> None:
        """Restore the state from a checkpoint directory of this run."""
        self.kept.load_state_dict(checkpoint.load(directory)[0].state_dict())
        state: dict[str, Any] = torch.load(directory / seal.STATE, weights_only=True)
        self.history = state["history"]

    def _features(self, split: Split, indices: Tensor, embedded: Callable[[int], None]) -> Tensor:
        """Return the embeddings (float32 N×D) of these images on all workers, each of which computes its part."""
        found = torch.zeros(len(indices), self.kept.head.in_features, device=self.device)
        size = max(1, EMBED_PIXELS // self.card.image_size**2)
        rows = self.workers.share(torch.arange(len(indices), device=indices.device)).split(size)
        for part, batch in zip(rows, split.ahead(indices[part] for part in rows), strict=True):
            found[part.to(self.device)] = forward(self.kept, batch.pixels, self.card, self.dtype)[1]
            embedded(len(part))
        self.workers.complete(found, self.device)
        return found


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


def _summary(logits: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    answers = logits.argmax(1)
    correct, predicted, images = (
        each.bincount(minlength=classes).cpu().numpy()
        for each in (labels[answers == labels], answers, labels)
    )
    return metrics.summary("val", correct, predicted, images, F.cross_entropy(logits, labels).item())
