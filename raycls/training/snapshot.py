"""The state of a training as a checkpoint directory, after an epoch or within it, and the way back.

taken(training, metrics).save(directory)
restore(training, directory)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raycls import progress
from raycls.models import checkpoint
from raycls.models.card import ModelCard
from raycls.training import seal

if TYPE_CHECKING:
    from raycls.training.loop import Training


class Snapshot:
    """A state of a training. Save it before the next training step, which changes the weights."""

    def __init__(self, kept: nn.Module, card: ModelCard, state: dict[str, Any]):
        self._kept, self.card, self._state = kept, card, state

    def save(self, directory: Path) -> None:
        """Write a complete checkpoint directory, including the state that a resumed run needs."""
        checkpoint.save(directory, self._kept, self.card)
        torch.save(self._state, directory / seal.STATE)
        seal.write(directory, self._state["history"])


def taken(training: Training, metrics: dict[str, float], **more: Any) -> Snapshot:
    """Return the present state of a training. more: what else a resumed run needs."""
    if training.average:
        more |= {"average": training.average.state_dict(), "network": training.network.state_dict()}
    state = {"history": training.history, **more, **training.optimizer.state_dict()}
    return Snapshot(training.kept, training.card.model_copy(update={"metrics": metrics}), state)


def restore(training: Training, directory: Path) -> None:
    """Give a training the state in a checkpoint directory of its run."""
    state = torch.load(directory / seal.STATE, map_location=training.device, weights_only=True)
    if training.average:
        training.average.load_state_dict(state["average"])
        training.network.load_state_dict(state["network"])
    else:
        training.network.load_state_dict(checkpoint.load(directory)[0].state_dict())
    training.optimizer.load_state_dict(state)
    training.history, training.begun = state["history"], state.get("begun")
    training.started -= (training.begun or training.history[-1])["train_seconds"]
    former = training.begun["workers"] if training.begun else training.workers.size
    if training.train.by_worker and former != training.workers.size and training.workers.rank == 0:
        progress.say(
            f"epoch {training.epoch + 1} began with {former} workers, and goes on with {training.workers.size}: some "
            "of its images come a second time, and others not at all"
        )
