"""Say whether a version must stop answering: it fails, is slow, or has lost its confidence.

    tripped(GuardPolicy(), champion_counts, challenger_counts)   # None, or the reason in one sentence

An experiment asks this about its challenger, and the watch after a promotion about the new champion beside the former
one. The guards are pure functions of counts and may be asked every second. At one look, noise trips a guard with a
chance of at most about `chance`, and not before `least_requests` requests. An answer of NaN is no noise and trips at
once. The guards do not know which answers were right: see raycls/lifecycle/sequential.py.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from raycls.metrics import bucket_quantile

SLOWEST = 0.05  # the share of requests above the p95


class GuardPolicy(BaseModel):
    """What ends an experiment, and what rolls a promotion back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extra_error_rate: float = Field(
        0.02, ge=0, le=1, description="share of requests that may fail beyond the champion's share"
    )
    latency_factor: float = Field(2.0, ge=1, description="largest p95, as a multiple of the champion's p95")
    confidence_drop: float = Field(
        0.15, ge=0, le=1, description="largest loss of mean confidence against the champion, in 0..1"
    )
    least_requests: int = Field(50, ge=1, description="requests of a version before it is compared")
    chance: float = Field(1e-5, gt=0, lt=0.5, description="chance that noise trips a guard at one look")


class ArmCounts(BaseModel):
    """What one version did. Only the server's own failures are errors, also answers after the deadline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int = Field(0, ge=0, description="answered or failed")
    errors: int = Field(0, ge=0, description="failed requests")
    not_finite: int = Field(0, ge=0, description="answers that were NaN or infinite, also counted as errors")
    bounds: tuple[float, ...] = Field(
        (), description="upper bounds of the latency buckets, seconds, ascending"
    )
    latencies: tuple[int, ...] = Field(
        (), description="answers in each bucket, and those above the last bound"
    )
    image_bounds: tuple[float, ...] = Field(
        (), description="of the next ones: upper bounds of the buckets, seconds, ascending"
    )
    image_latencies: tuple[int, ...] = Field(
        (), description="forward passes in each bucket, by their time for one image; empty: not counted"
    )
    confidences: int = Field(0, ge=0, description="answers with a confidence")
    confidence_sum: float = 0.0
    confidence_squares: float = Field(0.0, description="sum of the squares of the confidences")


def tripped(policy: GuardPolicy, champion: ArmCounts, challenger: ArmCounts) -> str | None:
    """Return why the challenger must stop, as one sentence, or None.

    Without enough requests of the champion, an error rate is compared with 0. The other guards wait for them.
    """
    if challenger.not_finite:
        return f"{challenger.not_finite} answers of the challenger were not finite numbers"
    if challenger.requests < policy.least_requests:
        return None
    return (
        _failing(policy, champion, challenger)
        or _slow(policy, champion, challenger)
        or _unsure(policy, champion, challenger)
    )


def _failing(policy: GuardPolicy, champion: ArmCounts, challenger: ArmCounts) -> str | None:
    enough = champion.requests >= policy.least_requests
    usual = _at_most(champion.errors, champion.requests, policy.chance) if enough else 0.0
    if _at_least(challenger.errors, challenger.requests, policy.chance) <= usual + policy.extra_error_rate:
        return None
    return (
        f"the challenger failed {challenger.errors} of {challenger.requests} requests, "
        f"the champion {champion.errors} of {champion.requests}"
    )


def _slow(policy: GuardPolicy, champion: ArmCounts, challenger: ArmCounts) -> str | None:
    """Compare the shares above a limit: the first bucket's bound above the champion's p95 × the factor.

    Where two versions answered at different times, both figures must be worse: more traffic makes requests wait longer,
    and fewer images in a batch make the forward pass longer for each of them.
    """
    images = (champion.image_bounds, champion.image_latencies, challenger.image_latencies)
    if all(images) and not _above(policy, *images):
        return None
    found = _above(policy, champion.bounds, champion.latencies, challenger.latencies)
    if not found:
        return None
    slow, limit, usual = found
    return (
        f"{slow} of {sum(challenger.latencies)} answers of the challenger took longer than {limit:g} s; "
        f"the champion's p95 is {usual:.2g} s"
    )


def _above(
    policy: GuardPolicy, bounds: tuple[float, ...], before: tuple[int, ...], now: tuple[int, ...]
) -> tuple[int, float, float] | None:
    """Return how many are above the limit, the limit and the former p95; None where that is no more than usual."""
    count, others = sum(now), sum(before)
    if min(count, others) < policy.least_requests or len(bounds) < 1:
        return None
    usual = bucket_quantile(bounds, before, 1 - SLOWEST) or 0.0
    bucket = min(int(np.searchsorted(bounds, usual * policy.latency_factor)), len(bounds) - 1)
    slow, slow_before = (sum(counts[bucket + 1 :]) for counts in (now, before))
    share = _at_least(slow, count, policy.chance)
    if share <= SLOWEST or share <= _at_most(slow_before, others, policy.chance):
        return None
    return slow, bounds[bucket], usual


def _unsure(policy: GuardPolicy, champion: ArmCounts, challenger: ArmCounts) -> str | None:
    if min(champion.confidences, challenger.confidences) < policy.least_requests:
        return None
    (usual, usual_error), (now, error) = _mean(champion), _mean(challenger)
    noise = stats.norm.isf(policy.chance) * math.hypot(usual_error, error)
    if usual - now <= policy.confidence_drop + noise:
        return None
    return f"the challenger's mean confidence is {now:.2f}, the champion's is {usual:.2f}"


def _mean(counts: ArmCounts) -> tuple[float, float]:
    """Return the mean confidence and its standard error."""
    mean = counts.confidence_sum / counts.confidences
    variance = max(counts.confidence_squares / counts.confidences - mean**2, 0.0)
    return mean, math.sqrt(variance / counts.confidences)


def _at_least(events: int, total: int, chance: float) -> float:
    """Return the lower bound of a share (Clopper & Pearson, 1934), wrong with a chance of at most `chance`."""
    return float(stats.beta.ppf(chance, events, total - events + 1)) if events else 0.0


def _at_most(events: int, total: int, chance: float) -> float:
    """Return the upper bound of a share (Clopper & Pearson, 1934), wrong with a chance of at most `chance`."""
    return float(stats.beta.isf(chance, events + 1, total - events)) if events < total else 1.0
