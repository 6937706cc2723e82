"""What a policy makes of two versions' answers: the verdict, its reason, and how often it is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raycls.errors import ConfigError
from raycls.registry.compare import Comparison, judged
from raycls.registry.measure import Answers
from raycls.registry.policy import PromotionPolicy, default_metric, override

CLASSES = ("cat", "dog", "fox")


def _answers(
    count: int,
    better: int,
    worse: int,
    *,
    uploads: int = 0,
    label: int | None = None,
    latency_ms: tuple[float, float] = (2.0, 2.0),
) -> Answers:
    """Both are right on 9 of 10 pictures, but the first `better` ones, which the challenger alone knows, and the next
    `worse` ones, which the champion alone knows. The last `uploads` pictures are uploads. label: of those that differ.
    """
    labels = np.arange(count) % len(CLASSES)
    if label is not None:
        labels[: better + worse] = label
    was, now = np.arange(count) % 10 > 0, np.arange(count) % 10 > 0
    was[:better], now[:better] = False, True
    was[better : better + worse], now[better : better + worse] = True, False

    def probabilities(right: np.ndarray) -> np.ndarray:
        answer = np.where(right, labels, (labels + 1) % len(CLASSES))
        return 0.1 + 0.7 * np.eye(len(CLASSES))[answer]

    return Answers(
        dataset="pets@2",
        split="gate",
        classes=CLASSES,
        labels=labels,
        rows=np.arange(count),
        uploaded=np.arange(count) >= count - uploads,
        champion=probabilities(was),
        challenger=probabilities(now),
        train_images=(100, 100, 100),
        engines=("torch", "torch"),
        latency_ms=latency_ms,
        remarks=(),
    )


def _judged(answers: Answers, *settings: str) -> Comparison:
    return judged(answers, "pets/7", "pets/3", override(PromotionPolicy(), settings))


def test_a_clear_gain_is_better_and_a_clear_loss_worse() -> None:
    found = _judged(_answers(2000, 60, 20))
    assert found.verdict == "better"
    assert found.reason.startswith("accuracy changes by +2.00 points (95% interval +1.1")
    assert found.figures["gain"] == pytest.approx(0.02)
    assert found.challenger_figures.accuracy - found.champion_figures.accuracy == pytest.approx(0.02)
    assert _judged(_answers(2000, 20, 60)).verdict == "worse"


def test_a_loss_within_the_margin_and_the_same_answers_are_not_better() -> None:
    assert _judged(_answers(5000, 20, 21)).verdict == "not better"
    found = _judged(_answers(300, 0, 0))
    assert (found.verdict, found.pictures_needed) == ("not better", None)
    assert found.reason == "both give the same answers to all 300 pictures"


def test_too_few_pictures_are_undecided_and_the_number_that_decides_is_said() -> None:
    found = _judged(_answers(100, 3, 2))
    assert found.verdict == "undecided"
    assert found.pictures_needed is not None and 300 < found.pictures_needed < 3000
    assert f"about {found.pictures_needed:,} are needed" in found.reason
    assert _judged(_answers(3000, 90, 60)).verdict == "better"  # the same shares


def test_a_gain_that_uploads_alone_give_does_not_promote() -> None:
    """The challenger knows the 200 uploads, and has lost elsewhere."""
    flipped = _answers(2000, 200, 60, uploads=0)
    uploads = np.zeros(2000, dtype=bool)
    uploads[:200] = True
    answers = replace(flipped, uploaded=uploads)
    assert _judged(flipped).verdict == "better"
    found = _judged(answers)
    assert found.verdict == "worse"
    assert "on 1,800 pictures that are not uploads" in found.reason
    assert found.gain_without_uploads is not None and found.gain_without_uploads.estimate < 0
    assert found.uploads == 200
    nothing_else = _judged(replace(flipped, uploaded=np.ones(2000, dtype=bool)))
    assert nothing_else.verdict == "undecided" and "every picture is an upload" in nothing_else.reason


def test_a_class_that_loses_refuses_unless_it_has_few_pictures() -> None:
    def answers(foxes: int) -> Answers:
        """600 cats and dogs, of which the challenger knows a third more, and foxes, of which it loses a tenth."""
        labels = np.repeat([0, 1, 2], (300, 300, foxes))
        champion, challenger = labels.copy(), labels.copy()
        champion[:600:3] = 2
        challenger[600 : 600 + foxes // 10] = 0
        return replace(
            _answers(600, 0, 0),
            labels=labels,
            uploaded=np.zeros(len(labels), dtype=bool),
            champion=np.eye(3)[champion],
            challenger=np.eye(3)[challenger],
        )

    found = _judged(answers(200))
    assert found.verdict == "not better"
    assert found.reason == "the recall of fox falls by 10.0 points on 200 pictures; the policy allows 5"
    assert _judged(answers(200), "max_recall_loss=0.2").verdict == "better"
    rare = _judged(answers(20))
    assert rare.verdict == "better"
    assert rare.remarks == ("the recall of fox falls by 10.0 points on 20 pictures, which may be chance",)


def test_latency_counts_where_the_policy_has_a_budget() -> None:
    slow = _answers(2000, 60, 20, latency_ms=(2.0, 5.0))
    assert _judged(slow).verdict == "better"
    for setting in ("max_latency_ratio=2", "max_latency_ms=4"):
        found = _judged(slow, setting)
        assert found.verdict == "not better"
        assert "an image takes 5.00 ms, the champion 2.00 ms; the policy allows 4.00 ms" in found.reason
    assert _judged(slow, "max_latency_ratio=3").verdict == "better"


def test_unbalanced_classes_are_judged_by_a_macro_metric() -> None:
    assert default_metric((100, 20, 100)) == "accuracy"
    assert default_metric((101, 20, 0)) == "macro_recall"
    answers = replace(_answers(2000, 60, 20), train_images=(1000, 100, 100))
    assert _judged(answers).policy.metric == "macro_recall"
    assert _judged(answers, "metric=log_loss").policy.metric == "log_loss"
    assert _judged(answers, "metric=log_loss").reason.startswith("log_loss improves by +0.0")


def test_a_wrong_policy_is_refused() -> None:
    for wrong, told in (
        ("metric=f1", "metric"),
        ("margins=1", "its fields are: metric"),
        ("margin=-1", "margin"),
    ):
        with pytest.raises(ConfigError, match=told):
            override(PromotionPolicy(), [wrong])
    assert str(override(PromotionPolicy(), ["metric=macro_f1"])).startswith("metric=macro_f1  margin=0.01")
