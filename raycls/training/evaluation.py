"""Evaluate a model on a split of a packed dataset. Training, the command line and reports use the same metrics.

    evaluation = evaluate(Predictor.load(directory), open_dataset("cifar10"), "test")
    evaluation.metrics("test")   # {"test_accuracy": 0.903, "test_loss": 0.31, "test_calibration_error": …}

The model can be evaluated on a dataset that it was not trained on. Classes are then matched by name, and images are
resized to the model's size. The test split is only for the final report. Code that selects a model must not use it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycls import metrics, progress
from raycls.data.packed import PackedDataset
from raycls.data.tensors import as_tensor
from raycls.engines.examples import Examples, match
from raycls.engines.predictor import Predictor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

NAMED_CLASSES = 30  # a confusion matrix with more classes has no room for names and counts


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of a model on a split.

    confusion (int64 C×C): image counts, with true classes in rows and predicted classes in columns.
    loss: mean cross entropy. calibration_error, calibration_interval: 0..1, as in raycls.metrics.
    calibration_error_before: the same at temperature 1.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray
    loss: float
    calibration_error: float
    calibration_interval: tuple[float, float]
    calibration_error_before: float

    @property
    def accuracy(self) -> float:
        return metrics.accuracy(self.confusion)

    @property
    def class_accuracy(self) -> dict[str, float]:
        """Return the share of correct images of each class. Classes without images in the split are left out."""
        shares = metrics.class_accuracy(self.confusion.diagonal(), self.confusion.sum(1))
        return {
            name: float(share)
            for name, share in zip(self.classes, shares, strict=True)
            if not np.isnan(share)
        }

    @property
    def confusion_table(self) -> dict[str, list[Any]]:
        """Return columns with a row for each pair of true and predicted class that occurs, and its number of images.

        Of 10,000 classes, the whole matrix has 10⁸ entries, almost all of them 0.
        """
        true, predicted = np.nonzero(self.confusion)
        names = np.array(self.classes, dtype=object)
        return {
            "true": names[true].tolist(),
            "predicted": names[predicted].tolist(),
            "images": self.confusion[true, predicted].tolist(),
        }

    def metrics(self, split: str) -> dict[str, float]:
        """Return the metrics under their MLflow names, such as test_accuracy."""
        counts = self.confusion
        found = metrics.summary(split, counts.diagonal(), counts.sum(0), counts.sum(1), self.loss)
        low, high = self.calibration_interval
        error = {
            "": self.calibration_error,
            "_low": low,
            "_high": high,
            "_before": self.calibration_error_before,
        }
        return found | {f"{split}_calibration_error{which}": value for which, value in error.items()}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The model's output for each example: logits (float32 N×C, over the examples' classes) and labels (int64 N).

    The logits are calibrated, as `Predictor.outputs` returns them: divided by the temperature.
    """

    examples: Examples
    logits: Tensor
    labels: Tensor
    temperature: float

    @property
    def probabilities(self) -> Tensor:
        """Return float32 N×C. Each row sums to 1."""
        return self.logits.softmax(1)

    @property
    def predicted(self) -> Tensor:
        """Return the class index of each example, int64 N."""
        return self.logits.argmax(1)

    def at_temperature(self, temperature: float) -> Scores:
        """Return the scores of the same network, whose logits are divided by this temperature."""
        logits = self.logits * (self.temperature / temperature)
        return replace(self, logits=logits, temperature=temperature)

    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the confidence of each answer (float64 N) and whether it is right (bool N)."""
        confidence, predicted = self.probabilities.max(1)
        return confidence.double().numpy(), (predicted == self.labels).numpy()

    def evaluation(self) -> Evaluation:
        """Return the metrics of these scores."""
        classes = self.examples.classes
        return Evaluation(
            classes=classes,
            confusion=metrics.confusion(self.labels.numpy(), self.predicted.numpy(), len(classes)),
            loss=F.cross_entropy(self.logits, self.labels).item(),
            calibration_error=metrics.calibration_error(*self.answers()),
            calibration_interval=metrics.calibration_interval(*self.answers()),
            calibration_error_before=metrics.calibration_error(*self.at_temperature(1.0).answers()),
        )


def score(predictor: Predictor, examples: Examples) -> Scores:
    """Return the model's output for the examples, computed in batches. Print the examples' remarks on stderr."""
    for remark in examples.remarks:
        progress.say(remark)
    logits = []
    with progress.bar(f"evaluating on {examples.dataset}/{examples.split}", total=len(examples)) as bar:
        for pixels in examples.batches():
            logits.append(torch.from_numpy(predictor.logits(pixels)))
            bar.advance(len(logits[-1]))
    return Scores(
        examples=examples,
        logits=torch.cat(logits)[:, examples.columns],
        labels=as_tensor(examples.labels),
        temperature=predictor.card.temperature,
    )


def evaluate(predictor: Predictor, dataset: PackedDataset, split: str) -> Evaluation:
    """Return the metrics of the model on a split. Raises UsageError as `match`."""
    return score(predictor, match(predictor.card, dataset, split)).evaluation()


def confusion_png(evaluation: Evaluation, title: str) -> bytes:
    """Return the confusion matrix as a PNG image.

    Colours show the share of each true class. Counts are shown if they fit.
    """
    from matplotlib.figure import Figure

    side = confusion_inches(len(evaluation.classes))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    draw_confusion(axes, evaluation.classes, evaluation.confusion)
    axes.set_title(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def confusion_inches(classes: int) -> float:
    """Return the side of a confusion matrix plot with this many classes, in inches."""
    return max(4.0, min(12.0, 1.5 + 0.55 * classes))


def draw_confusion(
    axes: Axes,
    names: tuple[str, ...],
    counts: np.ndarray,
    *,
    colours: str | Colormap = "Blues",
    ink: str = "black",
) -> None:
    """Draw a confusion matrix (int64 C×C) on matplotlib's axes.

    colours: the colour map for shares from 0 (the background) to 1. ink: the text colour on the background.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=colours, vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) > NAMED_CLASSES:
        return
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else ink
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
