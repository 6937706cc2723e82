"""How often the always-valid test of experiments decides, and how often it is wrong, on simulated answers.

    python benchmarks/sequential.py                      # 1,000 streams of each scenario
    python benchmarks/sequential.py --streams 100        # a first impression

Each stream is looked at after every answer, so a false alarm at any moment counts. The documents go to
OUTPUT/sequential/ (default: benchmarks/results), and the page OUTPUT/sequential.md is rebuilt. The last line of stdout
is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from harness import results_page
from harness.results_page import Document, Row, table

from raycls import command, progress
from raycls.lifecycle.sequential import ALPHA, Matching, log_capital

HERE = Path(__file__).parent
ANSWERS = 10_000
HEAD = f"""# Challenger against champion: the always-valid test

`benchmarks/sequential.py` made this page. It simulates reviewed answers of two versions and looks at
`raycls/lifecycle/sequential.py` after every answer. "Decided" is the share of streams in which the test said "better"
or "worse" at any look. Where both versions are equal, this is a false alarm, and at most {ALPHA:.0%} are allowed.
"""


@dataclass(frozen=True)
class Scenario:
    """What a stream is. share: of the challenger; None for shadow, where both answer the same images.

    champion, challenger: their answers in a stream. discordant: in shadow, the share of images that exactly one of both
    gets right; None for independent answers. falls: the accuracy of both falls by 20 points halfway.
    """

    name: str
    share: float | None
    champion: int
    challenger: int
    discordant: float | None = None
    falls: bool = False


SCENARIOS = [
    Scenario("shadow: 10,000 images, independent answers", None, ANSWERS, ANSWERS),
    Scenario("shadow: 10,000 images, 6% with one right answer", None, ANSWERS, ANSWERS, discordant=0.06),
    Scenario("split 0.5: 10,000 answers of each version", 0.5, ANSWERS, ANSWERS),
    Scenario("split 0.5: 10,000 answers in all", 0.5, ANSWERS // 2, ANSWERS // 2),
    Scenario("split 0.5: 10,000 of each, accuracy falls by 20 points", 0.5, ANSWERS, ANSWERS, falls=True),
    Scenario("split 0.1: 10,000 answers of the challenger", 0.1, 9 * ANSWERS, ANSWERS),
    Scenario("split 0.1: 10,000 answers in all", 0.1, ANSWERS * 9 // 10, ANSWERS // 10),
    Scenario("split 0.1: 10,000 in all, accuracy falls by 20 points", 0.1, 9000, 1000, falls=True),
]


def differences(
    random: np.random.Generator, scenario: Scenario, accuracy: float, better: float, streams: int
) -> np.ndarray:
    """Return the observations of some streams, float64 streams×T: see raycls.lifecycle.sequential.Matching."""
    if scenario.discordant is not None:
        wins = (scenario.discordant + better) / 2
        return random.choice(
            [1.0, -1.0, 0.0],
            (streams, scenario.champion),
            p=[wins, wins - better, 1 - scenario.discordant],
        )
    sizes = Matching.of_share(scenario.share or 0.5)
    count = min(scenario.champion // sizes.champion, scenario.challenger // sizes.challenger)
    level = accuracy - 0.2 * (scenario.falls * (np.arange(count) >= count // 2))
    gains = random.binomial(sizes.challenger, level + better, (streams, count)) / sizes.challenger
    losses = random.binomial(sizes.champion, level, (streams, count)) / sizes.champion
    return (gains - losses).round(12)


def first_decision(observed: np.ndarray) -> tuple[int, int]:
    """Return the first look that decides (-1 for none) and the sign of the difference then. observed: float64 T."""
    values, which = np.unique(observed, return_inverse=True)
    changed = np.flatnonzero(observed)  # a difference of 0 changes no capital
    counts = (which[:, None] == np.arange(len(values))).cumsum(0)[changed]
    enough = np.flatnonzero(log_capital(values, counts) >= -math.log(ALPHA))
    if not len(enough):
        return -1, 0
    look = int(changed[enough[0]])
    return look, int(np.sign(observed[: look + 1].sum()))


def simulate(scenario: Scenario, accuracy: float, better: float, streams: int) -> Row:
    """Return one row: how many streams were decided, in which direction, and after which share of the answers."""
    random = np.random.default_rng([zlib.crc32(scenario.name.encode()), round(1000 * better + 500)])
    firsts, looks = [], 0
    for _ in range(streams):
        (observed,) = differences(random, scenario, accuracy, better, 1)
        firsts.append(first_decision(observed))
        looks = len(observed)
    found, direction = np.array(firsts).T
    decided = found >= 0
    return {
        **asdict(scenario),
        "accuracy": accuracy,
        "better": better,
        "streams": streams,
        "decided": int(decided.sum()),
        "challenger_better": int((direction > 0).sum()),
        "median_share": float(np.median((found[decided] + 1) / looks)) if decided.any() else None,
    }


def section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    text = ""
    titles = {
        0.0: "Two equal versions: false alarms (goal: at most 5%)",
        0.02: "The challenger is two points better (goal: at least 80%)",
    }
    for better, title in titles.items():
        lines = []
        for row in document["rows"]:
            if row["better"] != better:
                continue
            share, streams = row["decided"] / row["streams"], row["streams"]
            error = 1.96 * math.sqrt(share * (1 - share) / streams)
            lines.append(
                (
                    row["name"],
                    f"{row['champion']:,}",
                    f"{row['challenger']:,}",
                    f"**{share:.1%}** ± {100 * error:.1f}",
                    f"{row['challenger_better'] / streams:.1%}",
                    "–" if row["median_share"] is None else f"{row['median_share']:.0%}",
                )
            )
        head = (
            "scenario",
            "answers of the champion",
            "of the challenger",
            "decided",
            "as better",
            "median moment, share of the stream",
        )
        text += f"## {title}\n\n{table(head, lines)}\n"
    facts = f"Measured {document['date']}: {streams:,} streams of each row, with 95% intervals."
    return f"{facts} The champion's accuracy is {document['arguments']['accuracy']:.0%}.\n\n{text}"


def main(arguments: list[str]) -> None:
    """Simulate all scenarios, rebuild the page and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--accuracy", type=float, default=0.9, help="of the champion, 0..1")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    rows = []
    for scenario in SCENARIOS:
        with progress.bar(scenario.name):
            rows += [simulate(scenario, options.accuracy, better, options.streams) for better in (0.0, 0.02)]
    facts = {"streams": options.streams, "accuracy": options.accuracy}
    results_page.keep(options.output, "sequential", results_page.document("simulated", facts, rows))
    page = results_page.write(options.output, "sequential", HEAD, {"simulated": section})
    progress.say(f"written: {page}")
    print(json.dumps({"benchmark": "sequential", "rows": rows}))


if __name__ == "__main__":
    command.run(main)
