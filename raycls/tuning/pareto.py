"""Weighs accuracy against latency: the Pareto front of a study's trials, and the choice among its points.

    front = pareto_front(trials)
    chosen = choose(front, budget_ms=2.0)    # without a budget: the knee of the front

raycls/tuning/latency.py measures the latencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raycls.errors import UsageError
from raycls.tuning.spec import Trial


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other trial beats in both accuracy and latency, the fastest first."""
    scored = [trial for trial in trials if trial.scored and trial.latency_ms is not None]
    front: list[Trial] = []
    for trial in sorted(scored, key=lambda t: (t.latency_ms or 0, -(t.score or 0), t.number)):
        if not front or (trial.score or 0) > (front[-1].score or 0):
            front.append(trial)
    return front


def choose(front: Sequence[Trial], budget_ms: float | None) -> Trial:
    """Return the most accurate trial within the budget. Without a budget, return the knee of the front.

    The knee is the point farthest above the line from the fastest to the most accurate trial, with both axes scaled to
    0..1 (Branke et al., Finding Knees in Multi-objective Optimization, 2004). Raises UsageError if no trial is within
    the budget.
    """
    if budget_ms is not None:
        within = [trial for trial in front if (trial.latency_ms or 0) <= budget_ms]
        if not within:
            raise UsageError(
                f"no trial is within --latency-budget-ms {budget_ms:g}: the fastest takes {front[0].latency_ms:.2f} ms"
            )
        return within[-1]
    latency = np.array([trial.latency_ms for trial in front], dtype=float)
    accuracy = np.array([trial.score for trial in front], dtype=float)
    if len(front) < 3:
        return front[-1]
    above = (accuracy - accuracy[0]) / np.ptp(accuracy) - (latency - latency[0]) / np.ptp(latency)
    return front[int(above.argmax())]
