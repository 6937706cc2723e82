"""The always-valid test: it seldom decides between equals at any look, and soon finds a better or worse version."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raycls.lifecycle.sequential import ALPHA, Matching, Tally, decide, log_capital

VALUES = np.array([-1.0, 0.0, 1.0])
STREAMS, IMAGES = 400, 3000


def streams(random: np.random.Generator, wins: float, losses: float) -> np.ndarray:
    """Return how often each of VALUES was seen after each image: int64 STREAMS×IMAGES×3."""
    drawn = random.choice(3, (STREAMS, IMAGES), p=[losses, 1 - wins - losses, wins])
    return np.eye(3, dtype=np.int64)[drawn].cumsum(1)


def decided(counts: np.ndarray) -> np.ndarray:
    return (log_capital(VALUES, counts) >= -math.log(ALPHA)).any(1)


def test_equal_versions_are_seldom_told_apart_at_any_of_many_looks() -> None:
    counts = streams(np.random.default_rng(0), 0.08, 0.08)
    assert 0 < decided(counts).mean() <= ALPHA


def test_a_difference_is_found_in_the_right_direction() -> None:
    """Four points in 3,000 answers are as hard as two in 12,000."""
    counts = streams(np.random.default_rng(1), 0.11, 0.07)
    assert decided(counts).mean() >= 0.8
    ends = [decide(Tally(dict(zip(VALUES, row, strict=True)))) for row in counts[:50, -1].tolist()]
    assert {verdict.decision for verdict in ends} <= {"better", "not_yet"}
    turned = [decide(Tally(dict(zip(-VALUES, row, strict=True)))) for row in counts[:50, -1].tolist()]
    assert [verdict.decision == "worse" for verdict in turned] == [v.decision == "better" for v in ends]


def test_the_interval_holds_the_true_difference_at_all_looks_of_a_stream() -> None:
    counts = streams(np.random.default_rng(2), 0.11, 0.07)
    outside = log_capital(VALUES, counts, mean=0.04) >= -math.log(ALPHA)
    assert outside.any(1).mean() <= ALPHA


@pytest.mark.parametrize(("wins", "losses", "ties"), [(60, 20, 420), (20, 60, 0), (5, 4, 1), (40, 0, 0)])
def test_the_interval_ends_where_the_capital_is_enough(wins: int, losses: int, ties: int) -> None:
    verdict = decide(Tally.paired(wins=wins, losses=losses, ties=ties))
    counts = np.array([losses, ties, wins])
    for end in (verdict.low, verdict.high):
        if abs(end) < 1:
            assert log_capital(VALUES, counts, end) == pytest.approx(-math.log(ALPHA), abs=1e-6)
    assert verdict.low < verdict.difference <= verdict.high
    assert verdict.difference == pytest.approx((wins - losses) / (wins + losses + ties))
    assert (verdict.decision == "not_yet") == (verdict.low <= 0 <= verdict.high)


def test_images_that_both_answer_alike_change_no_decision() -> None:
    for wins in range(10, 60, 10):
        few, many = (decide(Tally.paired(wins=wins, losses=10, ties=ties)) for ties in (0, 10_000))
        assert few.decision == many.decision


def test_nothing_is_decided_without_answers() -> None:
    assert decide(Tally()).decision == "not_yet"
    assert decide(Tally.paired(wins=0, losses=0, ties=50)).decision == "not_yet"


@pytest.mark.parametrize(
    ("share", "champion", "challenger"), [(0.5, 1, 1), (0.1, 9, 1), (0.75, 1, 3), (0.01, 20, 1)]
)
def test_groups_follow_the_share(share: float, champion: int, challenger: int) -> None:
    matching = Matching.of_share(share)
    assert (matching.champion, matching.challenger) == (champion, challenger)


def test_answers_are_grouped_in_the_order_in_which_they_come() -> None:
    matching = Matching.of_share(1 / 3)
    for right in (True, False):
        matching.add("challenger", right=right)
    assert matching.tally.counts == {}
    for right in (True, False, False, False, True):
        matching.add("champion", right=right)
    assert matching.tally.counts == {0.5: 1, 0.0: 1}
    assert matching.waiting == {"champion": [True], "challenger": []}


def test_a_version_that_answers_few_images_is_found_worse() -> None:
    random = np.random.default_rng(4)
    matching = Matching.of_share(0.1)
    for _ in range(5000):
        challenger = random.random() < 0.1
        right = random.random() < (0.75 if challenger else 0.9)
        matching.add("challenger" if challenger else "champion", right=bool(right))
    assert decide(matching.tally).decision == "worse"


def test_a_group_has_answers_of_both_whatever_the_share() -> None:
    sizes = {share: Matching.of_share(share) for share in (0.001, 0.1, 0.5, 0.9, 0.999, 1.0)}
    assert {share: (each.champion, each.challenger) for share, each in sizes.items()} == {
        0.001: (20, 1), 0.1: (9, 1), 0.5: (1, 1), 0.9: (1, 9), 0.999: (1, 20), 1.0: (1, 20)
    }  # fmt: skip
