"""Compute the metrics of an epoch on the validation split.

validate(network, Split(dataset, "val", device), card, dtype, workers)["val_accuracy"]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from raycls import metrics
from raycls.data.augment import reduced
from raycls.models.base import Network
from raycls.models.card import ModelCard
from raycls.models.forward import forward
from raycls.training.sampling import Split
from raycls.training.workers import Workers

EVAL_PIXELS = 2_000 * 32 * 32  # largest number of pixels in one batch, over all its images


def validate(
    network: Network, val: Split, card: ModelCard, dtype: torch.dtype, workers: Workers, share: float = 1.0
) -> dict[str, float]:
    """Return val_loss, val_accuracy, val_macro_accuracy and val_macro_f1, the same on all workers; {} without images.

    share: of the images' side. An epoch that learned from smaller images is validated on images of that size: in whole
    ones, things look larger than it knows them (arXiv:1906.06423). Each worker computes its part of the split.
    """
    if not len(val.labels):
        return {}
    network.eval()
    device, classes = next(network.parameters()).device, len(card.classes)
    loss = torch.zeros(1, dtype=torch.float64, device=device)
    correct, predicted = torch.zeros(2, classes, dtype=torch.float64, device=device)
    indices = val.every()
    parts = workers.share(indices).split(max(1, EVAL_PIXELS // card.image_size**2))
    for part in val.ahead(parts):
        labels, images = val.labels[part.indices], part.pixels
        logits, _ = forward(network, images if share == 1 else reduced(images, share), card, dtype)
        loss += F.cross_entropy(logits, labels, reduction="sum")
        answers = logits.argmax(1)
        correct += torch.bincount(labels[answers == labels], minlength=classes)
        predicted += torch.bincount(answers, minlength=classes)
    workers.average([loss, correct, predicted])
    counts = val.labels.bincount(minlength=classes).cpu().numpy()
    return metrics.summary(
        "val",
        (correct * workers.size).cpu().numpy(),
        (predicted * workers.size).cpu().numpy(),
        counts,
        loss.item() * workers.size / len(val.labels),
    )
