"""How often the gate promotes a version that is no better, by simulation.

    python benchmarks/promotion.py

In each trial, champion and challenger answer the pictures of a split `gate`. The champion is right on 90%. Both are
right or wrong on the same pictures, except for DIFFERENT of them, of which the challenger has more, as many, or fewer
right. raycls/registry/verdict.py judges with the default policy. The last line on stdout is one JSON document.

The simulation does not know how much two real versions differ. More disagreement makes the interval wider, so that
fewer versions are promoted.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

import numpy as np

from raycls.config import Metric
from raycls.registry.measure import Answers
from raycls.registry.paired import gain
from raycls.registry.policy import PromotionPolicy
from raycls.registry.verdict import class_gains, judge

CLASSES, ACCURACY, DIFFERENT = 10, 0.90, 0.06
SIZES = 300, 1_000, 3_000
TRUTHS = {"2 points worse": -0.02, "equal": 0.0, "1 point better": 0.01, "2 points better": 0.02}


def verdict(size: int, truth: float, metric: Metric, random: np.random.Generator) -> str:
    """Return the verdict of one trial. truth: the challenger's accuracy above the champion's."""
    labels = random.integers(CLASSES, size=size)
    wrong = 1 - ACCURACY - (DIFFERENT + truth) / 2  # share of the pictures that neither knows
    outcome = random.choice(
        4, size=size, p=(1 - DIFFERENT - wrong, (DIFFERENT + truth) / 2, (DIFFERENT - truth) / 2, wrong)
    )
    was, now = np.isin(outcome, (0, 2)), np.isin(outcome, (0, 1))
    mistakes = (labels + random.integers(1, CLASSES, size=size)) % CLASSES
    champion, challenger = (
        0.02 + 0.8 * np.eye(CLASSES)[np.where(right, labels, mistakes)] for right in (was, now)
    )
    found = Answers(
        dataset="simulated",
        split="gate",
        classes=tuple(map(str, range(CLASSES))),
        labels=labels,
        uploaded=np.zeros(size, dtype=bool),
        champion=champion,
        challenger=challenger,
        train_images=(1,) * CLASSES,
        engines=("torch", "torch"),
        latency_ms=(1.0, 1.0),
        remarks=(),
    )
    policy = PromotionPolicy(metric=metric)
    on_all = gain(metric, labels, champion, challenger, policy.confidence)
    return judge(policy, found, on_all, None, class_gains(found, policy))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--metric", default="accuracy")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    rows = []
    print(f"| challenger | pictures | promoted | undecided | not better | worse |\n|{'---|' * 6}")
    for told, truth in TRUTHS.items():
        for size in SIZES:
            counts = Counter(verdict(size, truth, arguments.metric, random) for _ in range(arguments.trials))
            shares = {
                name: counts[name] / arguments.trials
                for name in ("better", "undecided", "not better", "worse")
            }
            print(f"| {told} | {size:,} | {' | '.join(f'{share:.1%}' for share in shares.values())} |")
            rows.append({"challenger": told, "pictures": size, **shares})
    print(json.dumps({"metric": arguments.metric, "trials": arguments.trials, "rows": rows}))


if __name__ == "__main__":
    main()
