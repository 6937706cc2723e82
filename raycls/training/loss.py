"""The loss of a training step: cross entropy with label smoothing, of labels or of mixed images, weighted by class.

loss = cross_entropy(logits, labels, smoothing=0.2, class_weights=None)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
