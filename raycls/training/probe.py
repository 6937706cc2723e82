"""A linear probe: the body of a trained network stays as it is, and a regularised linear head learns from its features.

    training = Probe(config, card, network, train, val, workers, started)
    for metrics, snapshot in training.epochs(): …       # one epoch

Each image is embedded once; raycls/training/linear_head.py finds the head. It is the yardstick that fine-tuning must
beat, in seconds.
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
from raycls.models.forward import compute_dtype
from raycls.training import seal
from raycls.training.linear_head import features, fitted, head_weights, put
from raycls.training.sampling import Split
from raycls.training.snapshot import Snapshot
from raycls.training.workers import Workers


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

        chosen = self.train.chosen.sort().values  # as they lie in the file
        learned, other = (
            features(self.kept, split, indices, self.card, self.dtype, self.workers, embedded)
            for split, indices in ((self.train, chosen), (self.val, self.val.every()))
        )
        labels, known = self.train.labels[chosen], self.val.labels
        classes = len(self.card.classes)
        weights = head_weights(self.train, self.card, self.config)
        put(self.kept, fitted(learned, labels, other, known, classes, weights), self.workers)
        seconds = time.perf_counter() - self._started
        with torch.no_grad():
            answers, others = self.kept.head(learned), self.kept.head(other)
        found = {
            "epoch": 1,
            "train_loss": F.cross_entropy(answers, labels).item(),
            "train_accuracy": (answers.argmax(1) == labels).float().mean().item(),
            **_summary(others, known, classes),
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


def _summary(logits: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    answers = logits.argmax(1)
    correct, predicted, images = (
        each.bincount(minlength=classes).cpu().numpy()
        for each in (labels[answers == labels], answers, labels)
    )
    return metrics.summary("val", correct, predicted, images, F.cross_entropy(logits, labels).item())
