"""What was right, once for each answer, and what it says of a version."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.data.place import Folder
from raycls.errors import UnknownRecordError, UploadError, UsageError
from raycls.lifecycle.feedback import Accuracy, Claims, Feedback
from raycls.lifecycle.limits import UploadLimits
from tests.unit.lifecycle.pictures import CLASSES


@pytest.fixture
def feedback(tmp_path: Path) -> Feedback:
    return Feedback(Folder(tmp_path))


def claims(request: str, predicted: str = "cat", version: str = "7") -> Claims:
    return Claims(request, "pets", version, predicted, 0.9, 1.0)


def say(feedback: Feedback, request: str, label: str = "cat", version: str = "7", sender: str = "ann"):
    return feedback.record(claims(request, version=version), label, sender=sender, classes=CLASSES)


def test_an_answer_takes_feedback_once(feedback: Feedback, tmp_path: Path) -> None:
    said = say(feedback, "r1", "dog")
    assert (said.claims, said.label, said.sender, said.state, said.right) == (
        claims("r1"),
        "dog",
        "ann",
        "waiting",
        False,
    )
    other = Feedback(Folder(tmp_path))
    for label in ("dog", "cat"):
        with pytest.raises(UploadError, match="an answer takes it once"):
            say(other, "r1", label)
    assert feedback.of("pets") == [said]
    assert said.as_json()["right"] is False


def test_of_two_processes_that_write_at_once_one_is_refused(feedback: Feedback, tmp_path: Path) -> None:
    """The other one writes between the look and the record of this one."""
    other = Feedback(Folder(tmp_path))
    looks = []
    real = feedback._all

    def look():
        found = dict(real())
        if not looks:
            say(other, "r1", "dog", sender="bob")
        looks.append(found)
        return found

    feedback._all = look
    with pytest.raises(UploadError, match="an answer takes it once"):
        say(feedback, "r1", "cat")
    assert [(each.sender, each.label) for each in other.of("pets")] == [("bob", "dog")]


def test_only_reviewed_feedback_counts(feedback: Feedback) -> None:
    for request, label in (("r1", "cat"), ("r2", "dog"), ("r3", "cat"), ("r4", "cat")):
        say(feedback, request, label)
    say(feedback, "r5", "dog", version="8")
    assert feedback.accuracy("pets") == {}
    feedback.review(["r1", "r2", "r5"], by="eve", state="accepted")
    feedback.review(["r3"], by="eve", state="rejected")
    assert feedback.accuracy("pets") == {"7": Accuracy(2, 1), "8": Accuracy(1, 0)}
    assert feedback.accuracy("pets")["7"].share == 0.5
    assert feedback.accuracy("cars") == {}


def test_feedback_that_waits_has_a_limit(feedback: Feedback) -> None:
    limits = UploadLimits(waiting_feedback=2)
    for request in ("r1", "r2"):
        feedback.record(claims(request), "cat", sender="ann", classes=CLASSES, limits=limits)
    with pytest.raises(UploadError, match="too much feedback waits"):
        feedback.record(claims("r3"), "cat", sender="ann", classes=CLASSES, limits=limits)
    feedback.review(["r1"], by="eve", state="rejected")
    feedback.record(claims("r3"), "cat", sender="ann", classes=CLASSES, limits=limits)
    assert len(feedback.of("pets", state="waiting")) == 2


def test_a_review_is_kept_and_repeated_without_a_change(feedback: Feedback, tmp_path: Path) -> None:
    say(feedback, "r1")
    (said,) = feedback.review(["r1", "r1"], by="eve", state="accepted")
    assert (said.state, said.reviewer) == ("accepted", "eve")
    (said,) = Feedback(Folder(tmp_path)).review(["r1"], by="bob", state="accepted")
    assert said.reviewer == "eve"
    assert [each.state for each in feedback.of("pets", state="accepted")] == ["accepted"]
    assert feedback.of("pets", state="waiting") == []


def test_wrong_use_is_told(feedback: Feedback) -> None:
    with pytest.raises(UploadError, match="'bird' is no class of pets"):
        say(feedback, "r1", "bird")
    with pytest.raises(UsageError):
        say(feedback, "r1", sender="a b")
    with pytest.raises(UnknownRecordError, match="no feedback for 'r9'"):
        feedback.review(["r9"], by="eve", state="accepted")
    assert feedback.of("pets") == []
