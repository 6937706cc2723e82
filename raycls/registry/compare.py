"""Which of two versions is better: measured now, on the same pictures, and judged by a policy.

    found = compare(registry.resolve("pets/7"), registry.champion("pets"))
    found.verdict, found.reason         # "undecided", "accuracy … about 2,400 pictures are needed, there are 300"

raycls/registry/measure.py computes the answers, paired.py the statistics, and verdict.py judges. A comparison changes
nothing. raycls/registry/gate.py promotes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from raycls import metrics
from raycls.config import Engine
from raycls.registry.measure import Answers, answers
from raycls.registry.model_version import ModelVersion
from raycls.registry.paired import Gain, gain
from raycls.registry.policy import Metric, PromotionPolicy
from raycls.registry.verdict import ClassGain, Verdict, class_gains, judge, warnings

METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, kw_only=True)
class VersionFigures:
    """The figures of one version on the pictures of the comparison. recall: by class; latency_ms: of one image."""

    accuracy: float
    macro_f1: float
    macro_recall: float
    log_loss: float
    calibration_error: float
    recall: dict[str, float]
    engine: Engine
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a comparison.

    pictures, uploads: the pictures compared on, and those of them that were uploaded. gains: by metric, on all
    pictures. gain_without_uploads: of the policy's metric, None where no picture was uploaded or all were.
    pictures_needed: for a decision, where the verdict is undecided and a number is known.
    """

    challenger: str
    champion: str
    dataset: str
    split: str
    pictures: int
    uploads: int
    policy: PromotionPolicy
    verdict: Verdict
    reason: str
    pictures_needed: int | None
    champion_figures: VersionFigures
    challenger_figures: VersionFigures
    gains: dict[Metric, Gain]
    gain_without_uploads: Gain | None
    classes: tuple[ClassGain, ...]
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as one JSON document."""
        return {**asdict(self), "policy": self.policy.model_dump()}

    @property
    def figures(self) -> dict[str, float]:
        """Return the figures that decide, under short names."""
        assert self.policy.metric is not None
        decisive = self.gains[self.policy.metric]
        return {
            "champion": getattr(self.champion_figures, self.policy.metric),
            "challenger": getattr(self.challenger_figures, self.policy.metric),
            "gain": decisive.estimate,
            "low": decisive.low,
            "high": decisive.high,
            "p_value": decisive.p_value,
            "pictures": self.pictures,
        }

    def rows(self) -> list[tuple[str, ...]]:
        """Return the lines of a table: figure, champion, challenger, gain, its interval, p-value."""
        old, new = self.champion_figures, self.challenger_figures
        lines: list[tuple[str, ...]] = []
        for metric in METRICS:
            found = self.gains[metric]
            lines.append(
                (
                    metric,
                    f"{getattr(old, metric):.4f}",
                    f"{getattr(new, metric):.4f}",
                    f"{found.estimate:+.4f}",
                    f"{found.low:+.4f} to {found.high:+.4f}",
                    f"{found.p_value:.3g}",
                )
            )
        for name in ("calibration_error", "latency_ms"):
            lines.append((name, f"{getattr(old, name):.4f}", f"{getattr(new, name):.4f}", "", "", ""))
        return lines

    def class_rows(self) -> list[tuple[str, ...]]:
        """Return the lines of a table: class, pictures, recall of the champion and the challenger, gain, interval."""
        old, new = self.champion_figures.recall, self.challenger_figures.recall
        return [
            (
                each.name,
                f"{each.pictures:,}",
                f"{old[each.name]:.4f}",
                f"{new[each.name]:.4f}",
                f"{each.estimate:+.4f}",
                f"{each.low:+.4f} to {each.high:+.4f}",
            )
            for each in self.classes
        ]


def compare(
    challenger: ModelVersion, champion: ModelVersion, policy: PromotionPolicy = PromotionPolicy()
) -> Comparison:
    """Measure both versions on the same pictures and judge them. Raises as `raycls.registry.measure.answers`."""
    return judged(answers(challenger, champion), challenger.reference, champion.reference, policy)


def judged(found: Answers, challenger: str, champion: str, policy: PromotionPolicy) -> Comparison:
    """Return the comparison of answers that were computed. challenger, champion: the versions' references."""
    policy = policy.for_classes(found.train_images)
    assert policy.metric is not None
    gains = {
        metric: gain(metric, found.labels, found.champion, found.challenger, policy.confidence)
        for metric in METRICS
    }
    own = ~found.uploaded
    without_uploads = (
        gain(policy.metric, found.labels[own], found.champion[own], found.challenger[own], policy.confidence)
        if 0 < own.sum() < len(own)
        else None
    )
    classes = class_gains(found, policy)
    figures = [
        _figures(found, probabilities, index)
        for index, probabilities in enumerate((found.champion, found.challenger))
    ]
    verdict, reason, more = judge(policy, found, gains[policy.metric], without_uploads, classes)
    return Comparison(
        challenger=challenger,
        champion=champion,
        dataset=found.dataset,
        split=found.split,
        pictures=len(found.labels),
        uploads=int(found.uploaded.sum()),
        policy=policy,
        verdict=verdict,
        reason=reason,
        pictures_needed=more,
        champion_figures=figures[0],
        challenger_figures=figures[1],
        gains=gains,
        gain_without_uploads=without_uploads,
        classes=classes,
        remarks=(*found.remarks, *warnings(classes, policy)),
    )


def _figures(found: Answers, probabilities: np.ndarray, index: int) -> VersionFigures:
    predicted, labels, count = probabilities.argmax(1), found.labels, len(found.classes)
    counts = metrics.confusion(labels, predicted, count)
    right, images = counts.diagonal(), counts.sum(1)
    recall = metrics.class_accuracy(right, images)
    return VersionFigures(
        accuracy=metrics.accuracy(counts),
        macro_f1=float(metrics.macro_f1(right, counts.sum(0), images)),
        macro_recall=float(metrics.macro_recall(right, images)),
        log_loss=float(metrics.log_losses(probabilities, labels).mean()),
        calibration_error=metrics.calibration_error(probabilities.max(1), predicted == labels),
        recall={
            name: float(value)
            for name, value in zip(found.classes, recall, strict=True)
            if not np.isnan(value)
        },
        engine=found.engines[index],
        latency_ms=found.latency_ms[index],
    )
