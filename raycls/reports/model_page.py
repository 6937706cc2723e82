"""Renders the model report as one HTML file that contains all its pictures.

    html = render(report, pictures)

The page loads nothing from the internet. It is readable on a phone and in dark mode. This module gets figures,
sentences and PNG bytes. It measures and draws nothing itself.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycls import metrics
from raycls.engines.examples import Examples
from raycls.models.card import ModelCard
from raycls.registry import ModelVersion
from raycls.reports.duplicates import Duplicates
from raycls.reports.figures import Figures, confused_pairs
from raycls.reports.robustness import Robustness
from raycls.reports.templates import environment
from raycls.training.curves import Finding, Fit

OPEN_CLASSES = 20  # with more classes, the page shows the weakest and folds the full table
WEAKEST = 10
WELL_CALIBRATED = 0.02
HARD = 0.5  # share of the accuracy lost to a kind of damage; above it, the summary mentions the damage


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of a grid: its name among the pictures, and its caption."""

    picture: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of the page.

    trained_images: the number of training images of each class.
    duplicates: None if the examples are the training images themselves.
    clean_accuracy: accuracy on the examples without a near-duplicate, or None if there are none.
    cam_layer, filters_layer: names of the layers, or None if the network has no such layer.
    """

    version: ModelVersion
    card: ModelCard
    parameters: int
    examples: Examples
    trained_images: dict[str, int]
    figures: Figures
    history: list[dict[str, float]]
    fit: Fit
    findings: list[Finding]
    robustness: Robustness
    duplicates: Duplicates | None
    clean_accuracy: float | None
    wrong: list[Shown]
    cam_layer: str | None
    cam_right: list[Shown]
    cam_wrong: list[Shown]
    filters_layer: str | None
    feature_maps: list[Shown]
    damaged: list[Shown]
    twins: list[Shown]
    made: str

    @property
    def title(self) -> str:
        return f"{self.version.reference} on {self.examples.dataset}/{self.examples.split}"

    @property
    def blind_loss(self) -> float:
        """Return the log loss of a blind guess, in nats."""
        return math.log(len(self.examples.classes))

    def as_json(self) -> dict[str, Any]:
        """Return the report's figures as JSON data, for programs."""
        return {
            "model": self.version.reference,
            "checkpoint_sha256": self.version.sha256,
            "dataset": self.examples.dataset,
            "split": self.examples.split,
            "remarks": self.examples.remarks,
            "figures": self.figures.as_json(),
            "history": self.history,
            "fit": self.fit.__dict__,
            "findings": [finding.__dict__ for finding in self.findings],
            "robustness": self.robustness.as_json(),
            "near_duplicates": self.duplicates and self.duplicates.as_json(),
            "accuracy_without_near_duplicates": self.clean_accuracy,
            "grad_cam_layer": self.cam_layer,
        }


def in_short(report: Report) -> list[str]:
    """Return the sentences of the summary at the top of the page."""
    measured = report.figures
    told = [f"{finding.verdict.capitalize()}. {finding.reason}" for finding in report.findings]
    for true, predicted, count, share in confused_pairs(measured, 1):
        told.append(
            f"The most frequent mistake: {true} taken for {predicted}, {count:,} times ({share:.0%} of its images)."
        )
    weakest = min((each for each in measured.classes if each.images), key=lambda each: each.f1)
    told.append(
        f"The weakest class is {weakest.name}: F1 {weakest.f1:.3f}, {weakest.recall:.1%} of it found; it has "
        f"{report.trained_images[weakest.name]:,} training images."
    )
    told.append(calibration(measured))
    row = min(report.robustness.rows, key=lambda row: row.accuracies[1])
    lost = 1 - row.accuracies[1] / max(report.robustness.clean, 1e-9)
    if lost > HARD:
        told.append(
            f"What hurts most is {row.name}: {row.accuracies[1]:.1%} at {row.settings[1]}, against "
            f"{report.robustness.clean:.1%} undamaged."
        )
    if report.duplicates and report.duplicates.count:
        told.append(
            f"{report.duplicates.count:,} of {report.duplicates.looked_up:,} images have a near-duplicate among the "
            "training images."
        )
    return told


def calibration(measured: Figures) -> str:
    """Return one sentence on whether the model's confidence matches its accuracy."""
    over, (low, high) = measured.confidence - measured.accuracy, measured.calibration_interval
    figures = (
        f"mean confidence {measured.confidence:.1%}, accuracy {measured.accuracy:.1%}, calibration error "
        f"{measured.calibration_error:.1%}, 95% interval {low:.1%} to {high:.1%}, and before its temperature "
        f"{measured.calibration_error_before:.1%}"
    )
    if high < WELL_CALIBRATED:
        return f"Its confidence can be believed: {figures}."
    if low < WELL_CALIBRATED:
        return f"{measured.images:,} images do not tell whether its confidence can be believed: {figures}."
    side = "over" if over > 0 else "under"
    return f"It is {side}confident: {figures}."


def render(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Return the page as HTML.

    pictures: PNG bytes by the names that the report uses, and by chart (charts/NAME-light.png, charts/NAME-dark.png).
    """

    def uri(name: str) -> str:
        return "data:image/png;base64," + base64.b64encode(pictures[name]).decode()

    templates = environment()
    templates.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}%"
    classes = sorted(report.figures.classes, key=lambda each: (each.images == 0, each.f1))
    return templates.get_template("model_page.html.j2").render(
        report=report,
        uri=uri,
        in_short=in_short(report),
        calibration=calibration(report.figures),
        bins=metrics.BINS,
        classes=classes,
        weakest=WEAKEST if len(classes) > OPEN_CLASSES else 0,
        pairs=confused_pairs(report.figures, 8),
        curves=[name for name in ("loss", "accuracy", "lr") if f"charts/curve-{name}-light.png" in pictures],
    )
