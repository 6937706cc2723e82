"""How good a model is on a split of a packed dataset: one set of figures for training, the command line and reports.

    evaluation = evaluate(Predictor.load(directory), open_dataset("cifar10"), "test")
    evaluation.metrics("test")   # {"test_accuracy": 0.903, "test_loss": 0.31, "test_macro_accuracy": …}

The test split is for the final report alone: nothing that chooses a model may call this on "test".
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from raycls import progress
from raycls.data.packed import SPLITS, PackedDataset
from raycls.data.transforms import as_tensor
from raycls.errors import UsageError
from raycls.models.predictor import Predictor

BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """confusion (int64, C×C) counts true classes in rows and predicted ones in columns; loss is mean cross entropy."""

    classes: tuple[str, ...]
    confusion: np.ndarray
    loss: float

    @property
    def accuracy(self) -> float:
        return float(self.confusion.trace() / self.confusion.sum())

    @property
    def class_accuracy(self) -> dict[str, float]:
        """The share of each class's images that were recognised; a class with no image in the split is left out."""
        counts = self.confusion.sum(1)
        return {
            name: float(self.confusion[i, i] / counts[i]) for i, name in enumerate(self.classes) if counts[i]
        }

    def metrics(self, split: str) -> dict[str, float]:
        """Under their names in MLflow. macro_accuracy is the mean over classes, for unbalanced folders."""
        per_class = self.class_accuracy
        return {
            f"{split}_accuracy": self.accuracy,
            f"{split}_loss": self.loss,
            f"{split}_macro_accuracy": sum(per_class.values()) / len(per_class),
        }


def evaluate(predictor: Predictor, dataset: PackedDataset, split: str) -> Evaluation:
    """Raises UsageError for an unknown split, or a dataset whose classes or image size are not the model's."""
    # Importing it imports matplotlib, which writes into the user's home.
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    manifest, card = dataset.manifest, predictor.card
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; the splits are: {', '.join(SPLITS)}")
    if manifest.classes != card.classes:
        raise UsageError(f"the model's classes are not those of {manifest.name}")
    if manifest.image_size != card.image_size:
        raise UsageError(
            f"the model takes {card.image_size} pixels a side, {manifest.name} has {manifest.image_size}"
        )
    images, labels = dataset.images(split), as_tensor(dataset.labels(split))
    logits = []
    with progress.bar(f"evaluating on {manifest.name}/{split}", total=len(labels)) as bar:
        for start in range(0, len(labels), BATCH):
            logits.append(predictor.logits(images[start : start + BATCH]))
            bar.advance(len(logits[-1]))
    scores = torch.cat(logits)
    return Evaluation(
        classes=card.classes,
        confusion=multiclass_confusion_matrix(scores, labels, num_classes=len(card.classes)).numpy(),
        loss=F.cross_entropy(scores, labels).item(),
    )


def confusion_png(evaluation: Evaluation, title: str) -> bytes:
    """The confusion matrix as a picture: shares of each true class, with counts where they fit."""
    from matplotlib.figure import Figure

    counts, names = evaluation.confusion, evaluation.classes
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, min(12.0, 1.5 + 0.55 * len(names)))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if len(names) <= 30:
        ticks = range(len(names))
        axes.set_xticks(ticks, names, rotation=45, ha="right")
        axes.set_yticks(ticks, names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
