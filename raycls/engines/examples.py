"""The images of a split that a model can be measured on, matched to the model by class name.

    examples = match(predictor.card, open_dataset("pets"), "gate")
    examples.pixels(slice(0, 500)), examples.labels

The dataset may be another one than the model's. Evaluation, reports and the comparison of two versions use the same
match. This module knows cards and arrays. It computes no forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from raycls.data.packed import PackedDataset, PixelStore
from raycls.data.transforms import at_side
from raycls.errors import UsageError
from raycls.models.card import ModelCard

MOST_IMAGES, MOST_PIXELS = 500, 4_000_000  # of one forward pass


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The N images of a split that a model can be evaluated on.

    classes: the classes that both the model and the dataset know. labels (int64 N): indices into `classes`.
    columns (int64): the index of each of `classes` among the model's logits.
    model_only, dataset_only: the classes that only one of them knows. Their logits and images are not used.
    images (uint8 M×S'×S'×3): the whole split. rows (int64 N): the indices of the examples in it.
    size: the side of the model's input, pixels. remarks: the differences between model and dataset, as messages.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    labels: np.ndarray
    columns: np.ndarray
    model_only: tuple[str, ...]
    dataset_only: tuple[str, ...]
    images: PixelStore
    rows: np.ndarray
    size: int
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Return these examples as uint8 B×S×S×3 at the model's size, resized as `raycls data prepare` does."""
        return at_side(self.images[self.rows[chosen]], self.size)

    def batches(self) -> Iterator[np.ndarray]:
        """Yield all examples in order, as `pixels` returns them, in parts of at most MOST_IMAGES and MOST_PIXELS.

        What a network holds for a part grows with its pixels: 500 images of 512 pixels took ResNet-18 20 GB.
        """
        most = max(1, min(MOST_IMAGES, MOST_PIXELS // self.size**2))
        for start in range(0, len(self), most):
            yield self.pixels(slice(start, start + most))

    def drawn(self, most: int) -> np.ndarray:
        """Return the sorted indices (int64) of at most `most` random examples. The choice is always the same."""
        return np.sort(np.random.default_rng(0).permutation(len(self))[:most])

    def only(self, chosen: np.ndarray) -> Examples:
        """Return the chosen examples (bool or int64 array)."""
        return replace(self, labels=self.labels[chosen], rows=self.rows[chosen])


def match(card: ModelCard, dataset: PackedDataset, split: str) -> Examples:
    """Return the images of a split whose class the model knows by name.

    Raises UsageError if the split is unknown, if fewer than two classes match, or if no image has such a class.
    """
    info = dataset.info
    if split not in info.counts:
        raise UsageError(f"unknown split {split!r}; the splits are: {', '.join(info.counts)}")
    classes = tuple(name for name in card.classes if name in info.classes)
    if len(classes) < 2:
        raise UsageError(
            f"{info.name} ({_listed(info.classes)}) shares {len(classes) or 'no'} class with the model "
            f"({_listed(card.classes)}), at least two are needed: name its class folders as the model's classes"
        )
    model_only = tuple(name for name in card.classes if name not in classes)
    dataset_only = tuple(name for name in info.classes if name not in classes)
    remarks = []
    if model_only:
        remarks.append(f"classes of the model alone, which it may not answer here: {_listed(model_only)}")
    if dataset_only:
        remarks.append(f"classes of {info.name} alone, their images left out: {_listed(dataset_only)}")
    if info.image_size != card.image_size:
        remarks.append(f"the images were resized from {info.image_size} to {card.image_size} pixels a side")
    if info.name == card.dataset and info.fingerprint != card.dataset_fingerprint:
        remarks.append(
            f"{info.reference} is another version than {info.name}@{card.dataset_version}, which the model learned from"
        )
    if info.name == card.dataset and split == "val" and split in card.learned_splits:
        remarks.append("the model has learned val: its figures there say nothing about new images")
    shared = np.array([classes.index(name) if name in classes else -1 for name in info.classes])
    labels = shared[dataset.labels(split)]
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise UsageError(f"{info.name}/{split} has no image of a class that the model knows")
    return Examples(
        dataset=info.name,
        split=split,
        classes=classes,
        labels=labels[rows],
        columns=np.array([card.classes.index(name) for name in classes]),
        model_only=model_only,
        dataset_only=dataset_only,
        images=dataset.images(split),
        rows=rows,
        size=card.image_size,
        remarks=tuple(remarks),
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
