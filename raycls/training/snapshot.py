"""The state of a training after an epoch, as a checkpoint directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from raycls.models import checkpoint
from raycls.models.card import ModelCard
from raycls.training import seal


class Snapshot:
    """The state after an epoch. Save it before the next training step, which changes the weights."""

    def __init__(self, kept: nn.Module, card: ModelCard, state: dict[str, Any]):
        self._kept, self.card, self._state = kept, card, state

    def save(self, directory: Path) -> None:
        """Write a complete checkpoint directory, including the state that a resumed run needs."""
        checkpoint.save(directory, self._kept, self.card)
        torch.save(self._state, directory / seal.STATE)
        seal.write(directory, self._state["history"])
