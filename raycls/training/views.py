"""What the network sees of the images of a step: their size, random views, normalised, and their targets.

inputs, targets = views(train, batch, mirrored, config.augment, card, order, share=1.0)
"""

from __future__ import annotations

from torch import Tensor

from raycls.config import AugmentConfig, TrainingConfig
from raycls.data.augment import by_policy, distort, mix, random_views, reduced
from raycls.data.tensors import normalize
from raycls.models.card import ModelCard
from raycls.training.profile import mark
from raycls.training.sampling import Batch, EpochOrder, Split
from raycls.training.setup import REDUCED


def image_share(training: TrainingConfig, epoch: int) -> float:
    """Return the side of an epoch's images, as a share of the whole side. epoch: counted from 0.

    Early epochs learn coarse features. Smaller images show them too, at half the cost. The last epoch always has whole
    ones, as the model that is served.
    """
    few = min(round(training.reduced_share * training.epochs), training.epochs - 1)
    return REDUCED if epoch < few else 1.0


def views(
    train: Split,
    batch: Batch,
    mirrored: Tensor | None,
    augment: AugmentConfig,
    card: ModelCard,
    order: EpochOrder,
    share: float,
) -> tuple[Tensor, Tensor]:
    """Return inputs (float B×3×s×s) and targets: labels (int64 B), or shares of the classes (float32 B×C).

    mirrored: bool B, or None for no image. share: of the images' side.
    """
    mark("read")
    images = random_views(batch.images, batch.rows, augment, mirrored=mirrored, generator=order.views)
    mark("augment")
    if share < 1:
        images = reduced(images, share)
    images = by_policy(images, augment.policy)
    inputs = normalize(images, card.mean, card.std)
    inputs = distort(inputs, card.mean, card.std, augment, order.pixels, scale=share)
    labels = train.labels[batch.indices]
    if augment.mixup or augment.cutmix:
        return mix(inputs, labels, len(card.classes), augment, order.pixels)
    return inputs, labels
