"""What the gains of a challenger mean under a policy.

    verdict, reason, more = judge(policy, answers, on_all, without_uploads, classes)

| verdict | when |
|---|---|
| `better` | the gain is above 0 and its interval above -margin, on all pictures and on those that are not uploads |
| `worse` | the interval is below 0 |
| `not better` | the gain is not above 0, or a class loses too much recall, or an image takes too long |
| `undecided` | the interval holds both a loss beyond the margin and no loss: more pictures are needed |

Only `better` promotes. This module knows figures, and nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raycls.registry.measure import Answers
from raycls.registry.paired import Gain, needed, proportion_interval
from raycls.registry.policy import PromotionPolicy

Verdict = Literal["better", "not better", "worse", "undecided"]
FEW_IN_CLASS = 30  # pictures: a class with fewer only warns


@dataclass(frozen=True, kw_only=True)
class ClassGain:
    """The paired difference of one class's recall, with the ends of its interval."""

    name: str
    pictures: int
    estimate: float
    low: float
    high: float


def class_gains(found: Answers, policy: PromotionPolicy) -> tuple[ClassGain, ...]:
    """Return the gain of recall of each class that has pictures."""
    was, now = (each.argmax(1) == found.labels for each in (found.champion, found.challenger))
    gains = []
    for index, name in enumerate(found.classes):
        inside = found.labels == index
        if count := int(inside.sum()):
            better, worse = int((now & ~was & inside).sum()), int((was & ~now & inside).sum())
            low, high, _ = proportion_interval(better, worse, count, policy.confidence)
            gains.append(
                ClassGain(name=name, pictures=count, estimate=(better - worse) / count, low=low, high=high)
            )
    return tuple(gains)


def judge(
    policy: PromotionPolicy,
    found: Answers,
    on_all: Gain,
    without_uploads: Gain | None,
    classes: Sequence[ClassGain],
) -> tuple[Verdict, str, int | None]:
    """Return the verdict, its reason in one sentence, and how many pictures a decision needs, if that is known."""
    if np.array_equal(found.champion, found.challenger):
        return "not better", f"both give the same answers to all {on_all.pictures:,} pictures", None
    if found.uploaded.all():
        return "undecided", "every picture is an upload, and some that are not are needed", None
    sets = [(on_all, "pictures")]
    if without_uploads:
        sets.append((without_uploads, "pictures that are not uploads"))
    judgements = [_judge_gain(each, where, policy) for each, where in sets]
    for verdict in ("worse", "not better", "undecided"):
        for judgement in judgements:
            if judgement[0] == verdict:
                return judgement
    lost = [each for each in classes if _lost(each, policy) and _certain(each)]
    if lost:
        worst = min(lost, key=lambda each: each.estimate)
        return (
            "not better",
            f"the recall of {worst.name} falls by {-100 * worst.estimate:.1f} points on {worst.pictures:,} pictures; "
            f"the policy allows {100 * policy.max_recall_loss:g}",
            None,
        )
    old_ms, new_ms = found.latency_ms
    most = policy.max_latency_ms
    if policy.max_latency_ratio is not None:
        most = min(most or float("inf"), policy.max_latency_ratio * old_ms)
    if most is not None and new_ms > most:
        return (
            "not better",
            f"an image takes {new_ms:.2f} ms, the champion {old_ms:.2f} ms; the policy allows {most:.2f} ms",
            None,
        )
    return judgements[0]


def _judge_gain(found: Gain, where: str, policy: PromotionPolicy) -> tuple[Verdict, str, int | None]:
    told = f"{_told(found, policy.confidence)} on {found.pictures:,} {where}"
    if found.enough and found.high < 0:
        return "worse", told, None
    if found.enough and found.low > -policy.margin:
        return ("better" if found.estimate > 0 else "not better"), told, None
    more = needed(found, policy.margin, policy.confidence)
    way_out = f"about {more:,} are needed" if more else "a margin above 0 is needed"
    return "undecided", f"{told}: {way_out}", more


def _told(found: Gain, confidence: float) -> str:
    """Return the gain in words: `accuracy changes by +1.20 points (95% interval -0.10 to +2.50)`."""
    scale, unit = (1, "nats") if found.metric == "log_loss" else (100, "points")
    metric = "log_loss improves" if found.metric == "log_loss" else f"{found.metric} changes"
    return (
        f"{metric} by {scale * found.estimate:+.2f} {unit} "
        f"({100 * confidence:g}% interval {scale * found.low:+.2f} to {scale * found.high:+.2f})"
    )


def _lost(each: ClassGain, policy: PromotionPolicy) -> bool:
    return each.estimate < -policy.max_recall_loss


def _certain(each: ClassGain) -> bool:
    """Return whether a loss in the class counts: there are enough pictures, and it is hardly chance."""
    return each.pictures >= FEW_IN_CLASS and each.high < 0


def warnings(classes: Sequence[ClassGain], policy: PromotionPolicy) -> Iterator[str]:
    """Yield a line for each class that loses more recall than the policy allows, but on few pictures or perhaps by
    chance. The greatest loss comes first."""
    for each in sorted(classes, key=lambda each: each.estimate):
        if _lost(each, policy) and not _certain(each):
            doubt = f"on only {each.pictures:,} pictures"
            if each.high >= 0:
                doubt = f"on {each.pictures:,} pictures, which may be chance"
            yield f"the recall of {each.name} falls by {-100 * each.estimate:.1f} points {doubt}"
