"""The guards: a broken challenger stops within a few hundred requests, and noise stops nobody."""

from __future__ import annotations

import numpy as np
import pytest

from raycls.lifecycle.guards import ArmCounts, GuardPolicy, tripped

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
POLICY = GuardPolicy()


def arm(
    requests: int,
    *,
    seed: int = 0,
    errors: float = 0.0,
    median_s: float = 0.004,
    confidence: float = 0.8,
    not_finite: int = 0,
) -> ArmCounts:
    """Return the counts of random requests: log-normal latencies, and confidences spread around a mean."""
    random = np.random.default_rng(seed)
    failed = int(random.binomial(requests, errors))
    answered = requests - failed
    seconds = random.lognormal(np.log(median_s), 0.5, answered)
    latencies = np.bincount(np.searchsorted(BOUNDS, seconds), minlength=len(BOUNDS) + 1)
    confidences = np.clip(random.normal(confidence, 0.2, answered), 0, 1)
    return ArmCounts(
        requests=requests,
        errors=failed,
        not_finite=not_finite,
        bounds=BOUNDS,
        latencies=tuple(latencies.tolist()),
        confidences=answered,
        confidence_sum=float(confidences.sum()),
        confidence_squares=float((confidences**2).sum()),
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"errors": 1.0}, "failed 300 of 300 requests"),
        ({"errors": 0.2}, "the challenger failed"),
        ({"median_s": 0.04}, "longer than"),
        ({"confidence": 0.5}, "mean confidence is 0."),
        ({"not_finite": 1}, "not finite"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_broken_challenger_stops(change: dict, reason: str, seed: int) -> None:
    found = tripped(POLICY, arm(600, seed=seed), arm(300, seed=100 + seed, **change))
    assert found
    assert reason in found


@pytest.mark.parametrize("usual_s", [0.0003, 0.00051, 0.0011, 0.0026, 0.011, 0.26, 2.6])
def test_ten_times_slower_stops_wherever_the_buckets_lie(usual_s: float) -> None:
    assert tripped(POLICY, arm(600, median_s=usual_s), arm(300, seed=1, median_s=10 * usual_s))


def test_equal_versions_are_not_stopped_at_any_look() -> None:
    """Both fail 1% of their requests. The counts are looked at again and again, as an experiment does."""
    random = np.random.default_rng(5)
    for _ in range(100):
        champion, challenger = ArmCounts(), ArmCounts()
        for _ in range(60):
            champion, challenger = (
                added(counts, arm(50, seed=int(random.integers(1 << 31)), errors=0.01))
                for counts in (champion, challenger)
            )
            assert tripped(POLICY, champion, challenger) is None


def added(one: ArmCounts, other: ArmCounts) -> ArmCounts:
    sums = {name: getattr(one, name) + getattr(other, name) for name in ArmCounts.model_fields}
    latencies = [
        sum(pair) for pair in zip(one.latencies or (0,) * (len(BOUNDS) + 1), other.latencies, strict=True)
    ]
    return ArmCounts(**{**sums, "bounds": BOUNDS, "latencies": tuple(latencies)})


def test_some_slow_images_do_not_stop_the_challenger() -> None:
    """A tenth of the images is large. A champion with few requests has met only one of them by chance."""
    fast, slow = BOUNDS.index(0.005), BOUNDS.index(0.1)

    def of(few: int, many: int) -> ArmCounts:
        latencies = [0] * (len(BOUNDS) + 1)
        latencies[fast], latencies[slow] = many, few
        return ArmCounts(requests=few + many, bounds=BOUNDS, latencies=tuple(latencies))

    assert tripped(POLICY, of(1, 59), of(100, 900)) is None
    assert tripped(POLICY, of(10, 990), of(400, 600))


def test_few_requests_stop_nobody() -> None:
    assert tripped(POLICY, arm(1000), arm(49, errors=1.0)) is None
    assert tripped(POLICY, arm(1000), arm(50, errors=1.0))


def test_errors_stop_a_challenger_beside_which_no_champion_answers() -> None:
    assert tripped(POLICY, ArmCounts(), arm(300, errors=1.0))
    assert tripped(POLICY, ArmCounts(), arm(300)) is None


def test_the_policy_allows_what_it_says() -> None:
    lax = GuardPolicy(extra_error_rate=0.5, latency_factor=100, confidence_drop=0.5)
    challenger = arm(300, seed=1, errors=0.3, median_s=0.04, confidence=0.5)
    assert tripped(lax, arm(600), challenger) is None
