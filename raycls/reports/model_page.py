"""The report as one HTML file: what was measured, in order, with every picture inside it.

    html = render(report, pictures)

Asks the network for nothing, reads well on a phone and in the dark. Knows figures, sentences and PNG bytes; measures
and draws nothing.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycls.models.card import ModelCard
from raycls.registry import ModelVersion
from raycls.reports.curves import Finding, Fit
from raycls.reports.duplicates import Duplicates
from raycls.reports.figures import Figures, confused_pairs
from raycls.reports.robustness import Robustness
from raycls.reports.templates import environment
from raycls.training.evaluation import Examples

OPEN_CLASSES = 20  # a table of more classes is folded, under the weakest of them
WEAKEST = 10
WELL_CALIBRATED = 0.02
HARD = 0.5  # of the accuracy lost under a damage: worth a word at the top


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of a grid: its name among the pictures, and what stands below it."""

    picture: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page tells. duplicates is None where the examples are the training images themselves.

    trained_images counts the training images of each class. clean_accuracy is the accuracy on the examples that are no
    near-duplicates, where there are both. cam_layer, filters_layer: the layers'
    names, None for a network that has none of the kind.
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
        """The log loss of a guess that knows nothing, nats."""
        return math.log(len(self.examples.classes))

    def as_json(self) -> dict[str, Any]:
        """The same figures for programs."""
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
    """The sentences at the top of the page: what to know when nothing else is read."""
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
    """Whether confidence can be believed, in one sentence."""
    error, over = measured.calibration_error, measured.confidence - measured.accuracy
    figures = f"mean confidence {measured.confidence:.1%}, accuracy {measured.accuracy:.1%}"
    if error < WELL_CALIBRATED:
        return f"Its confidence can be believed ({figures}; calibration error {error:.1%})."
    side = "over" if over > 0 else "under"
    return f"It is {side}confident: {figures}; calibration error {error:.1%}."


def render(report: Report, pictures: Mapping[str, bytes]) -> str:
    """The page. pictures: PNG by the names that the report uses, and the charts' (charts/NAME-light.png, -dark.png)."""

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
        classes=classes,
        weakest=WEAKEST if len(classes) > OPEN_CLASSES else 0,
        pairs=confused_pairs(report.figures, 8),
        curves=[name for name in ("loss", "accuracy", "lr") if f"charts/curve-{name}-light.png" in pictures],
    )
