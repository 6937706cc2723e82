"""The watch after a promotion, without a server."""

from __future__ import annotations

from pathlib import Path

from raycls.lifecycle import promotion_watch, replica_counts
from raycls.lifecycle.guards import ArmCounts
from raycls.lifecycle.promotion_watch import WATCHES, Watch, ended, identifier, load, seen, total, trouble


def _counts(requests: int, confidence: float, errors: int = 0) -> ArmCounts:
    answered = requests - errors
    return ArmCounts(
        requests=requests,
        errors=errors,
        bounds=(0.01, 0.1),
        latencies=(answered, 0, 0),
        confidences=answered,
        confidence_sum=confidence * answered,
        confidence_squares=confidence**2 * answered,
    )


def _promoted(after: ArmCounts, watch_s: float = 100) -> Watch:
    before = seen(None, "pets/6", {"a": _counts(500, 0.9), "b": _counts(400, 0.9)}, watch_s)
    return seen(before, "pets/7", {"c": after}, watch_s)


def test_the_first_version_that_is_seen_is_not_watched() -> None:
    watch = seen(None, "pets/6", {"a": _counts(500, 0.1, errors=400)}, 100)
    assert (watch.is_on, trouble(watch)) == (False, "")


def test_a_new_version_that_is_as_good_stays() -> None:
    watch = _promoted(_counts(500, 0.88))
    assert watch.is_on
    assert (watch.former, total(watch.former_counts).requests) == ("pets/6", 900)
    assert trouble(watch) == ""


def test_a_version_that_fails_or_has_lost_its_confidence_must_go() -> None:
    assert "mean confidence is 0.30" in trouble(_promoted(_counts(500, 0.3)))
    assert "failed 100 of 500 requests" in trouble(_promoted(_counts(500, 0.9, errors=100)))


def test_nothing_is_said_when_the_time_is_over_or_the_watch_was_ended() -> None:
    bad = _counts(500, 0.3)
    assert trouble(_promoted(bad, watch_s=0)) == ""
    assert trouble(ended(_promoted(bad))) == ""


def test_counts_of_replicas_that_are_gone_stay() -> None:
    watch = seen(_promoted(_counts(100, 0.9)), "pets/7", {"d": _counts(50, 0.9)}, 100)
    watch = seen(watch, "pets/7", {"d": _counts(70, 0.9)}, 100)
    assert total(watch.counts).requests == 170
    assert watch.former == "pets/6"


def test_the_counts_of_many_replicas_that_are_gone_become_one() -> None:
    watch = _promoted(_counts(1, 0.9))
    for replica in range(200):
        watch = seen(watch, "pets/7", {f"r{replica}": _counts(2, 0.9)}, 100)
    assert len(watch.counts) <= replica_counts.MOST
    assert total(watch.counts).requests == 401


def test_the_record_outlives_the_control_plane(home: Path) -> None:
    assert load("a model / with any name") is None
    watch = _promoted(_counts(100, 0.9))
    WATCHES.save(identifier(watch.model), watch)
    assert promotion_watch.load("pets") == watch
