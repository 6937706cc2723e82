"""Explains the learning curves in plain words: finds underfitting, overfitting and other problems of a training.

    for finding in diagnose(tracking.history(run_id), fit):
        print(finding.verdict, finding.reason)

    for finding in warnings(history, val_images=5000, classes=10, epochs=20):     # while it trains
        print(finding.verdict, finding.reason)

Every reason gives the figures that it is based on. The constants below are the thresholds. This module knows only
numbers, not pictures or pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FINDINGS = "findings"  # the tag of a run with what was told while it trained: JSON

LOSS_RISE = 1.02  # training loss over that of the epoch before; a smaller rise may be noise
CHANCE = 0.97  # training loss over that of a blind guess; above it, the model has learned nothing
OVERFIT_GAP = 0.05  # training accuracy minus validation accuracy
UNDERFIT_SHARE = 2 / 3  # training error over validation error
GOOD_ENOUGH = 0.95  # from this training accuracy on, a model is not underfitted
VAL_LOSS_RISE = 1.1  # last validation loss over the lowest
HARDLY_FALLS = 0.95  # training loss over that of a quarter of the planned epochs before
SETTLED = 0.005  # change of val_accuracy over the last quarter of the epochs


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The figures of the kept weights (from `epoch`) on training and validation images.

    Accuracies are in 0..1 and losses in nats. classes is the number of classes. val_images is the size of the
    validation split, which limits the precision of its figures. augmented: whether the training figures are those of
    augmented images, in training itself. They are lower than on the images as they are, so that overfitting may be
    seen in them, and underfitting not.
    """

    epoch: int
    train_accuracy: float
    train_loss: float
    val_accuracy: float
    val_loss: float
    val_images: int
    classes: int
    augmented: bool = False

    @property
    def noise(self) -> float:
        """Return how far the 95% interval of val_accuracy reaches from it. Smaller differences may be chance.

        Wilson's interval (JASA 22, 1927), which keeps a width where every image is recognised. Its centre is nearer to
        a half than the accuracy is.
        """
        right, n, z = self.val_accuracy, self.val_images, 1.96
        half = z / (1 + z**2 / n) * math.sqrt(right * (1 - right) / n + z**2 / (4 * n**2))
        return half + abs((right + z**2 / (2 * n)) / (1 + z**2 / n) - right)


@dataclass(frozen=True)
class Finding:
    """A verdict of a few words, and a reason: the figures and what to try."""

    verdict: str
    reason: str


def diagnose(history: Sequence[dict[str, float]], fit: Fit) -> list[Finding]:
    """Return the findings, the most important one first.

    history: one dict per epoch, in order, with train_loss, val_loss and val_accuracy. If the model has learned
    nothing, that is the only finding.
    """
    blind = math.log(fit.classes)
    if history and history[-1]["train_loss"] > CHANCE * blind:
        return [
            Finding(
                "has not learned",
                f"The training loss is {history[-1]['train_loss']:.3f}; a blind guess among {fit.classes} classes has "
                f"{blind:.3f}. Change the learning rate (optim.lr) by a factor of ten, downwards first.",
            )
        ]
    return [*_learning_rate(history), _fitted(history, fit), *_ending(history, fit)]


def warnings(
    history: Sequence[dict[str, float]],
    *,
    val_images: int,
    classes: int,
    epochs: int,
    mixed: bool = False,
) -> list[Finding]:
    """Return what speaks against a training that goes on: nothing in its first two epochs, or that is not confirmed.

    history: as for `diagnose`, with train_accuracy. epochs: that are planned. mixed: whether it learns from mixed
    images, on which neither loss nor accuracy tell how well the images are known. A finding is confirmed when it holds
    after two epochs in a row. What only the end of the schedule can tell, such as "converged", is not told.
    """

    def after(rows: Sequence[dict[str, float]]) -> list[Finding]:
        now = rows[-1]
        fit = Fit(
            epoch=int(now["epoch"]),
            train_accuracy=now["train_accuracy"],
            train_loss=now["train_loss"],
            val_accuracy=now["val_accuracy"],
            val_loss=now["val_loss"],
            val_images=val_images,
            classes=classes,
            augmented=True,
        )
        found = diagnose(rows, fit)
        stalled = now["val_loss"] >= min(row["val_loss"] for row in rows[:-1])
        told = ["has not learned", "learning rate too high", *(["overfitting"] if stalled else [])]
        found = [finding for finding in found if finding.verdict in told]
        return found or ([] if mixed else _hardly_falls(rows, fit, epochs))

    if len(history) <= 2:
        return []
    before = {finding.verdict for finding in after(history[:-1])}
    return [finding for finding in after(history) if finding.verdict in before]


def _hardly_falls(history: Sequence[dict[str, float]], fit: Fit, epochs: int) -> list[Finding]:
    """Return whether it underfits: the training loss hardly falls although the learning rate is not at its end.

    A quarter of the schedule is long enough to tell this from a plateau at a high learning rate.
    """
    quarter = max(3, math.ceil(epochs / 4))
    rates = [row.get("lr", 0.0) for row in history]
    falling = len(history) > quarter and 0.1 * max(rates) < rates[-1] <= rates[-1 - quarter]
    if not falling or fit.train_accuracy >= GOOD_ENOUGH:
        return []
    former = history[-1 - quarter]
    gained = fit.val_accuracy - former["val_accuracy"]
    apart = fit.train_accuracy - fit.val_accuracy
    if fit.train_loss < HARDLY_FALLS * former["train_loss"] or max(gained, apart) > max(SETTLED, fit.noise):
        return []
    return [
        Finding(
            "underfitting",
            f"The training loss hardly falls: {former['train_loss']:.3f} to {fit.train_loss:.3f} in {quarter} epochs, "
            f"and {fit.train_accuracy:.1%} of the augmented training images are recognised. Take a wider or another "
            "network, or less augmentation and label smoothing.",
        )
    ]


def _learning_rate(history: Sequence[dict[str, float]]) -> list[Finding]:
    losses = [row["train_loss"] for row in history]
    rises = [i for i in range(1, len(losses)) if losses[i] > LOSS_RISE * losses[i - 1]]
    if len(rises) < max(2, len(losses) / 4):
        return []
    worst = max(losses[i] / losses[i - 1] for i in rises) - 1
    epochs = ", ".join(str(i + 1) for i in rises[:8])
    return [
        Finding(
            "learning rate too high",
            f"The training loss rose in {len(rises)} of {len(losses)} epochs ({epochs}), by up to {worst:.0%}. "
            "Halve optim.lr, or warm up (optim.warmup=0.1).",
        )
    ]


def _fitted(history: Sequence[dict[str, float]], fit: Fit) -> Finding:
    gap = fit.train_accuracy - fit.val_accuracy
    seen, unseen = 1 - fit.train_accuracy, 1 - fit.val_accuracy
    as_they_are = "augmented" if fit.augmented else "not augmented"
    figures = (
        f"{fit.train_accuracy:.1%} of training images ({as_they_are}) are recognised and {fit.val_accuracy:.1%} of "
        f"the validation split (± {fit.noise:.1%} by its size)"
    )
    if gap > max(OVERFIT_GAP, fit.noise) and seen < UNDERFIT_SHARE * unseen:
        return Finding(
            "overfitting",
            f"{figures}: a gap of {100 * gap:.1f} points.{_rising_val_loss(history)} More or more varied images help "
            "most; then augmentation (augment.cutout, augment.mixup), network.dropout, or a smaller network.",
        )
    if fit.augmented:
        return Finding(
            "no overfitting",
            f"{figures}: a gap of {100 * gap:.1f} points. Whether it underfits is told by `raycls evaluate --report`, "
            "which looks at training images as they are.",
        )
    if fit.train_accuracy < GOOD_ENOUGH and seen > UNDERFIT_SHARE * unseen:
        return Finding(
            "underfitting",
            f"{figures}: most of the error is already there on images it was trained on. Train longer, or a wider "
            "network, or with less augmentation and label smoothing.",
        )
    return Finding(
        "a fair fit",
        f"{figures}: a gap of {100 * gap:.1f} points, in which neither underfitting nor overfitting stands out.",
    )


def _rising_val_loss(history: Sequence[dict[str, float]]) -> str:
    if not history:
        return ""
    losses = [row["val_loss"] for row in history]
    lowest = min(range(len(losses)), key=losses.__getitem__)
    if losses[-1] < VAL_LOSS_RISE * losses[lowest]:
        return ""
    return f" The validation loss rose from {losses[lowest]:.3f} in epoch {lowest + 1} to {losses[-1]:.3f}."


def _ending(history: Sequence[dict[str, float]], fit: Fit) -> list[Finding]:
    """Return whether more epochs would help, as a finding. Return no finding if there are fewer than four epochs."""
    if len(history) < 4:
        return []
    accuracies = [row["val_accuracy"] for row in history]
    last = max(2, len(history) // 4)
    gained = accuracies[-1] - accuracies[-1 - last]
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    told = (
        f"val_accuracy went from {accuracies[-1 - last]:.1%} to {accuracies[-1]:.1%} in the last {last} of "
        f"{len(history)} epochs"
    )
    if accuracies[best] - accuracies[-1] > max(SETTLED, fit.noise):
        return [
            Finding(
                "past its best",
                f"{told}; the best was {accuracies[best]:.1%} in epoch {best + 1}; epoch {fit.epoch} was kept. "
                "Fewer epochs, or training.patience, save the time.",
            )
        ]
    if accuracies[-1] == 1:
        return [Finding("at the ceiling", f"{told}: every validation image is recognised.")]
    if gained <= SETTLED:
        return [Finding("converged", f"{told}: more epochs of the same would change little.")]
    if gained <= fit.noise:
        return [
            Finding(
                "trend unclear",
                f"{told}, no more than the ± {fit.noise:.1%} that {fit.val_images} validation images are exact to: "
                "it may be chance, and does not say that more epochs would help.",
            )
        ]
    peak = max(row.get("lr", 0.0) for row in history)
    if peak and history[-1].get("lr", peak) < 0.1 * peak:
        told += ", while the learning rate fell to its end"
    return [
        Finding(
            "still improving",
            f"{told}. A longer schedule (training.epochs={2 * len(history)}) is likely to end higher.",
        )
    ]
