"""What the simulation of the gate says, in short."""

from __future__ import annotations

import numpy as np
from promotion import verdict


def test_worse_versions_are_hardly_promoted_and_better_ones_mostly() -> None:
    random = np.random.default_rng(0)

    def promoted(truth: float) -> float:
        return sum(verdict(1000, truth, "accuracy", random) == "better" for _ in range(200)) / 200

    assert promoted(-0.02) <= 0.01
    assert promoted(0.02) > 0.9
