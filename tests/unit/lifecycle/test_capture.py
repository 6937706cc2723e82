"""Which pictures of live requests are kept, and for how long."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from raycls.data.place import Folder
from raycls.lifecycle.capture import DAY_S, Counts, counts_of, expire, keep
from raycls.lifecycle.intake import add
from raycls.lifecycle.review import accept, reject
from raycls.lifecycle.uploads import Uploads
from raycls.serving.replica.captured import CapturePolicy, Prediction, wanted
from tests.unit.lifecycle.pictures import CLASSES, digest, png, stored

ALL = CapturePolicy(share=1)
UNSURE = Prediction("cat", 0.4, "pets", "7")


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(Folder(tmp_path))


def capture(uploads: Uploads, seed: int, policy: CapturePolicy = ALL):
    return keep(uploads, "pets", png(seed), UNSURE, policy, classes=CLASSES)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, False),
        ({"share": 1}, True),
        ({"share": 0.5}, True),
        ({"share": 0.4}, False),
        ({"share_of_class": {"cat": 1}}, True),
        ({"share_of_class": {"dog": 1}}, False),
        ({"share": 1, "share_of_class": {"cat": 0}}, False),
        ({"share": 1, "most_confidence": 0.39}, False),
        ({"share": 1, "least_confidence": 0.41}, False),
        ({"share": 1, "least_confidence": 0.4, "most_confidence": 0.4}, True),
    ],
)
def test_each_part_of_the_policy_counts(policy: dict, expected: bool) -> None:
    assert wanted(CapturePolicy(**policy), UNSURE, 0.45) is expected


def test_a_share_is_one_of_all_requests() -> None:
    source = random.Random(1)
    policy = CapturePolicy(share=0.1)
    kept = sum(wanted(policy, UNSURE, source.random()) for _ in range(10_000))
    assert 900 < kept < 1100


def test_a_policy_out_of_range_is_refused() -> None:
    for wrong in ({"share": 1.1}, {"share": float("nan")}, {"days": 0}, {"per_day": -1}, {"nope": 1}):
        with pytest.raises(ValidationError):
            CapturePolicy(**wrong)


def test_a_captured_picture_waits_with_its_prediction(uploads: Uploads) -> None:
    assert capture(uploads, 1).taken[0].label == "cat"
    (record,) = stored(uploads)
    assert (record.source, record.label, record.state, record.sender) == (
        "captured",
        "cat",
        "waiting",
        "capture",
    )
    assert record.prediction["confidence"] == 0.4
    assert record.prediction["version"] == "7"
    assert counts_of(uploads, "pets") == Counts(1, 1)
    assert counts_of(uploads, "pets", time.time() + 2 * DAY_S) == Counts(0, 1)


def test_all_processes_together_keep_to_the_quotas(uploads: Uploads, tmp_path: Path) -> None:
    for policy in (CapturePolicy(share=1, per_day=2), CapturePolicy(share=1, quota=2)):
        answers = [capture(Uploads(Folder(tmp_path)), seed, policy) for seed in (1, 2, 3)]
        assert answers[2] is None
        assert len(stored(uploads)) == 2


def test_what_nobody_accepted_in_time_is_deleted(uploads: Uploads) -> None:
    for seed in (1, 2, 3):
        capture(uploads, seed)
    add(uploads, "pets", [("x", png(4))], label="cat", sender="ann", classes=CLASSES)
    accept(uploads, "pets", [digest(png(1))], by="eve")
    reject(uploads, "pets", [digest(png(2))], by="eve")
    assert expire(uploads, ALL, time.time() + 29 * DAY_S) == []
    gone = expire(uploads, ALL, time.time() + 31 * DAY_S)
    assert {record.sha256 for record in gone} == {digest(png(2)), digest(png(3))}
    assert [uploads.has(digest(png(seed))) for seed in (1, 2, 3, 4)] == [True, False, False, True]
    assert expire(uploads, ALL, time.time() + 31 * DAY_S) == []
    assert counts_of(uploads, "pets").stored == 0
    assert len(capture(uploads, 3).taken) == 1, "it may be captured again"


def test_what_an_experiment_keeps_uses_up_no_quota(uploads: Uploads) -> None:
    found = {"experiment": "a1b2", "champion": "cat", "challenger": "dog"}
    add(
        uploads,
        "pets",
        [("x", png(1))],
        label="cat",
        sender="capture",
        source="captured",
        classes=CLASSES,
        prediction=found,
    )
    assert counts_of(uploads, "pets") == Counts(0, 0)
    assert len(capture(uploads, 2, CapturePolicy(share=1, per_day=1)).taken) == 1


def test_an_expired_picture_that_another_dataset_has_stays(uploads: Uploads) -> None:
    capture(uploads, 1)
    add(uploads, "other", [("x", png(1))], label="a", sender="ann", classes=("a", "b"))
    assert len(expire(uploads, ALL, time.time() + 31 * DAY_S)) == 1
    assert uploads.has(digest(png(1)))


def test_a_picture_that_somebody_sends_is_no_longer_a_captured_one(uploads: Uploads) -> None:
    capture(uploads, 1)
    answer = add(uploads, "pets", [("x", png(1))], label="dog", sender="ann", classes=CLASSES)
    assert len(answer.taken) == 1
    (record,) = stored(uploads)
    assert (record.source, record.label, record.sender) == ("upload", "dog", "ann")
    assert expire(uploads, ALL, time.time() + 31 * DAY_S) == []
