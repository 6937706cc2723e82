"""Which version is right more often, by what people reviewed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raycls.lifecycle.experiment import Record
from raycls.lifecycle.feedback import Claims, Feedback
from raycls.lifecycle.live_accuracy import judged
from raycls.serving.state import Experiment

CLASSES = ("cat", "dog")


def _record(mode: str) -> Record:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(
        experiment=Experiment(
            id="a1b2c3d4",
            champion="pets/6",
            challenger="pets/7",
            mode=mode,  # type: ignore[arg-type]
            share=0.5,
            started=started,
            by="ada",
        )
    )


def _say(feedback: Feedback, version: str, right: int, wrong: int, *, later: float = 1) -> list[str]:
    ids = []
    for i in range(right + wrong):
        claims = Claims(f"{version}-{later}-{i}", "pets", version, "cat", 0.9, time.time() + later)
        feedback.record(claims, "cat" if i < right else "dog", sender="ann", classes=CLASSES)
        ids.append(claims.request_id)
    return ids


def test_feedback_counts_when_it_is_accepted_and_of_this_experiment(home: Path) -> None:
    feedback, record = Feedback(), _record("split")
    ids = _say(feedback, "6", 60, 40) + _say(feedback, "7", 95, 5)
    ids += _say(feedback, "6", 0, 50, later=-3600) + _say(feedback, "5", 0, 50)
    before = judged(record, feedback=feedback)
    assert before.reviewed == {"champion": 0, "challenger": 0}
    assert before.verdict.decision == "not_yet"
    feedback.review(ids, by="eve", state="accepted")
    after = judged(record, feedback=feedback)
    assert after.reviewed == {"champion": 100, "challenger": 100}
    assert after.right == {"champion": 60, "challenger": 95}
    assert after.verdict.decision == "better"
    assert after.verdict.difference == pytest.approx(0.35)
    feedback.review(ids, by="eve", state="rejected")
    assert judged(record, feedback=feedback).verdict.decision == "not_yet"
