"""When a training ends: after its last epoch, when patience is over, or at figures that are not finite.

if finished(history, config.training): …
check_loss(train_loss, config, epoch=3)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycls.config import Config, TrainingConfig
from raycls.errors import TrainingError
from raycls.metrics import rank


def finished(history: Sequence[dict[str, float]], training: TrainingConfig) -> bool:
    """Return whether the last epoch was trained or patience has ended. history: the metrics of each epoch, in order."""
    if not history or len(history) >= training.epochs:
        return bool(history)
    best = max(history, key=lambda each: rank(training.chosen_by, each))
    # Patience begins with the epochs that see whole images, of which one is kept.
    return best.get("image_share", 1) == 1 and 0 < training.patience <= len(history) - best["epoch"]


def check_loss(loss: float, config: Config, epoch: int) -> None:
    """Raise TrainingError where the training loss of an epoch (counted from 1) is not finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch}: lower the learning rate (optim.lr={config.optim.lr:g})"
        )


def check_validation(loss: float, config: Config, epoch: int) -> None:
    """Raise TrainingError where the validation loss after an epoch (counted from 1) is not finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the validation loss became {loss} after epoch {epoch}, as the weights are no longer finite: lower the "
            f"learning rate (optim.lr={config.optim.lr:g}) or take --set training.precision=fp32"
        )
