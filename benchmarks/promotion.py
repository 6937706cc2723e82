"""How often the gate promotes a version that is no better, by simulation. Needs no dataset and no model.

    python benchmarks/promotion.py --trials 1000          # writes results/promotion.md

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
from pathlib import Path
from typing import get_args

import numpy as np
from harness import results_page
from harness.results_page import Document, Row, Section, table

from raycls import command, progress
from raycls.config import Metric
from raycls.registry.measure import Answers
from raycls.registry.paired import gain
from raycls.registry.policy import PromotionPolicy
from raycls.registry.verdict import Verdict, class_gains, judge

HERE = Path(__file__).parent
CLASSES, ACCURACY, DIFFERENT = 10, 0.90, 0.06
SIZES = 300, 1_000, 3_000
TRUTHS = {"2 points worse": -0.02, "equal": 0.0, "1 point better": 0.01, "2 points better": 0.02}


def verdict(size: int, truth: float, metric: Metric, random: np.random.Generator) -> Verdict:
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
        rows=np.arange(size),
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


HEAD = f"""\
# Promotion

How often the default policy promotes a challenger, by simulation: how much better it is in truth, and how many pictures
the split `gate` has. The champion is right on {ACCURACY:.0%} of the pictures, and the two differ on {DIFFERENT:.0%}.
Two versions that are equal in truth may be promoted: this costs nothing. What the policy prevents is a loss.
"""


def measure(metric: Metric, trials: int) -> list[Row]:
    """Return a row for each truth and size, with the share of each verdict."""
    random, rows = np.random.default_rng(0), []
    with progress.bar("simulating", total=len(TRUTHS) * len(SIZES)) as bar:
        for told, truth in TRUTHS.items():
            for size in SIZES:
                counts = Counter(verdict(size, truth, metric, random) for _ in range(trials))
                shares = {name: counts[name] / trials for name in get_args(Verdict)}
                rows.append({"challenger": told, "pictures": size, **shares})
                bar.advance()
    return rows


def _section(documents: dict[str, Document]) -> str:
    parts = []
    for document in documents.values():
        verdicts = get_args(Verdict)
        lines = [
            (row["challenger"], f"{row['pictures']:,}", *(f"{row[name]:.1%}" for name in verdicts))
            for row in document["rows"]
        ]
        metric, trials = document["arguments"]["metric"], document["arguments"]["trials"]
        parts.append(
            f"## {metric}\n\n{document['date']} UTC, {trials:,} trials in each row.\n\n"
            + table(("challenger", "pictures", *verdicts), lines)
        )
    return "\n".join(parts)


SECTIONS: dict[str, Section] = dict.fromkeys(get_args(Metric), _section)


def main(arguments: list[str]) -> None:
    """Simulate, write the results and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000, help="of each row (default: 1000)")
    parser.add_argument("--metric", choices=get_args(Metric), default="accuracy")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    asked = {"metric": options.metric, "trials": options.trials}
    document = results_page.document(options.metric, asked, measure(options.metric, options.trials))
    file = results_page.keep(options.output, "promotion", document)
    page = results_page.write(options.output, "promotion", HEAD, SECTIONS)
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
