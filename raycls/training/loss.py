"""The loss of a training step: cross entropy with label smoothing, of labels or of mixed images, weighted by class.

loss = cross_entropy(logits, labels, smoothing=0.2, class_weights=None)
check_finite(loss.item(), epoch=3, lr=0.24)
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from raycls.errors import TrainingError


def cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean over the images, a scalar.

    logits: float32 B×C. targets: int64 B (classes), or float32 B×C (the share of each class in a mixed image).
    class_weights (float32 C, of mean 1 over the split's images) weight each image by its class. PyTorch's own `weight`
    weights each class of the smoothed target, which rewards predicting the rarest class; and the mean over the weights
    of a part of a batch differs from worker to worker.
    """
    if class_weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    weights = class_weights[targets] if targets.ndim == 1 else targets @ class_weights
    losses = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    return (weights * losses).mean()


def check_finite(loss: float, epoch: int, lr: float) -> None:
    """Raise TrainingError if the training loss of an epoch is not finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch}: lower the learning rate (optim.lr={lr:g})"
        )


def check_finite_validation(loss: float, epoch: int, lr: float) -> None:
    """Raise TrainingError if the validation loss after an epoch is not finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the validation loss became {loss} after epoch {epoch}, as the weights are no longer finite: lower the "
            f"learning rate (optim.lr={lr:g}) or take --set training.precision=fp32"
        )
