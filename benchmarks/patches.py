"""What each optimisation of raycls/ray_patches/ buys: the same server with all of them, and without one after another.

    python benchmarks/patches.py --rounds 5                    # every patch
    python benchmarks/patches.py --patches direct_predict --rounds 3

The model (default: the latest champion) is served by two replicas on its own cluster, from a temporary RAYCLS_HOME.
Each round starts a server with all patches, and one without each patch, in turns. On each server it measures the closed
loops of 1 and 100 connections, an update under 250 requests/s, and three times the peak load. `train_processes` is
measured by short trainings of the model's dataset. The results go to
OUTPUT/patches/serving.json and training.json (default: benchmarks/results), and the page OUTPUT/patches.md is rebuilt.
The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import results_page
from harness.results_page import Document, Row, Section, table
from harness.served_copy import stage

from raycls import command, progress, registry
from raycls.benchmark.load import Load
from raycls.errors import UsageError
from raycls.models.card import load_card
from raycls.ray_patches import patches
from raycls.ray_patches.guard import CHOICE
from raycls.serving.control import rollout

HERE = Path(__file__).parent
SERVE_CONFIG = HERE.parent / "serve_config.yaml"
REPLICAS, SECONDS = 2, 5.0
UPDATE_RATE, UPDATE_S = 250, 40.0
OVERLOAD, OVERLOAD_S = 3, 10.0
OPTIMISATIONS = [patch.name for patch in patches() if not patch.needed]
OF_TRAINING = ["train_processes"]
MEASURES = {
    "requests_per_s": "requests/s at 100 connections",
    "p50_one_ms": "p50 at 1 connection, ms",
    "update_p99_ms": "p99 during an update at 250 requests/s, ms",
    "update_failed": "requests failed during the update",
    "overload_share": "share of the peak served at three times the peak",
}
HEAD = """# What each patch buys

`benchmarks/patches.py` made this page. Each patch of `raycls/ray_patches/` is compared with the same server, or the
same training, that has all other patches. A ratio is the figure with all patches divided by the figure without the one:
the median of the rounds, with the smallest and the largest.
"""


@contextmanager
def chosen(without: str | None) -> Iterator[None]:
    """Let every optimisation act but one, in this process and in what it starts."""
    before = os.environ.get(CHOICE)
    os.environ[CHOICE] = ",".join(name for name in OPTIMISATIONS if name != without)
    try:
        yield
    finally:
        if before is None:
            del os.environ[CHOICE]
        else:
            os.environ[CHOICE] = before


def serving(model: str | None, without: str | None) -> Row:
    """Measure one server."""
    with chosen(without), stage(model, SERVE_CONFIG, REPLICAS) as server:
        with server.generator() as generator:
            one, many = (generator.measure(Load(connections=n, seconds=SECONDS)) for n in (1, 100))
            peak = many.requests_per_s
            over = generator.measure(Load(rate=OVERLOAD * peak, seconds=OVERLOAD_S))
        version = server.again()
        with server.under_load(UPDATE_RATE, UPDATE_S) as sample:
            rollout.promote(version.name, version.version, force="a copy of the champion")
        update = sample.result()
    return {
        "without": without or "",
        "requests_per_s": peak,
        "p50_one_ms": one.p50_ms,
        "update_p99_ms": update.p99_ms,
        "update_failed": sum(update.errors.values()),
        "overload_share": over.requests_per_s / peak,
    }


def training(dataset: str, without: str | None) -> Row:
    """Measure one short training, from the command to its end."""
    program = [
        sys.executable,
        "-m",
        "raycls",
        "train",
        dataset,
        "--preset",
        "smoke",
        "--set",
        "training.epochs=3",
    ]
    with chosen(without):
        started = time.perf_counter()
        subprocess.run(program, check=True, capture_output=True)
    return {"without": without or "", "seconds": time.perf_counter() - started}


def rounds(measured: Sequence[str], count: int, one: Callable[[str | None], Row]) -> Iterator[list[Row]]:
    """Yield the rows so far: `count` rounds with all patches and without each, the order turned every round."""
    rows: list[Row] = []
    for turn in range(count):
        order: list[str | None] = [None, *measured]
        for without in order if turn % 2 == 0 else reversed(order):
            what = f"without {without}" if without else "all patches"
            with progress.bar(f"round {turn + 1} of {count}, {what}"):
                rows.append({"round": turn, **one(without)})
            yield rows


def _section(title: str, measures: dict[str, str]) -> Section:
    def section(documents: dict[str, Document]) -> str:
        (document,) = documents.values()
        rows = document["rows"]
        whole = {row["round"]: row for row in rows if not row["without"]}
        lines = []
        for name in dict.fromkeys(row["without"] for row in rows if row["without"]):
            cells = []
            for measure in measures:
                pairs = [
                    (whole[row["round"]][measure], row[measure]) for row in rows if row["without"] == name
                ]
                if measure == "update_failed":
                    cells.append(f"{sum(with_all for with_all, _ in pairs)} / {sum(one for _, one in pairs)}")
                else:
                    cells.append(results_page.ratio([with_all / one for with_all, one in pairs if one]))
            lines.append((f"`{name}`", len(pairs), *cells))
        medians = [
            f"{text}: {statistics.median(row[measure] for row in whole.values()):.3g}"
            for measure, text in measures.items()
        ]
        head = ("without", "rounds", *measures.values())
        facts = f"Measured {document['date']}. With all patches, medians: {'; '.join(medians)}."
        return f"## {title}\n\n{facts}\n\n{table(head, lines)}"

    return section


SECTIONS = {
    "serving": _section("Serving, two replicas", MEASURES),
    "training": _section("A short training", {"seconds": "seconds from the command to its end"}),
}


def main(arguments: list[str]) -> None:
    """Measure the patches of the command line, rebuild the page and print the rows. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patches", default=",".join(OPTIMISATIONS), help="names with commas (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="NAME, NAME@ALIAS or NAME/VERSION (default: the latest champion)")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    asked = options.patches.split(",")
    if unknown := set(asked) - set(OPTIMISATIONS):
        raise UsageError(
            f"no optimisation {', '.join(sorted(unknown))}; they are: {', '.join(OPTIMISATIONS)}"
        )
    facts = {"rounds": options.rounds, "patches": asked}
    dataset = load_card(registry.checkpoint(registry.resolve(options.model))).dataset
    parts: dict[str, tuple[list[str], Callable[[str | None], Row]]] = {
        "serving": (
            [patch for patch in asked if patch not in OF_TRAINING],
            lambda without: serving(options.model, without),
        ),
        "training": (
            [patch for patch in asked if patch in OF_TRAINING],
            lambda without: training(dataset, without),
        ),
    }
    printed = {}
    for name, (measured, one) in parts.items():
        if measured:
            growing = rounds(measured, options.rounds, one)
            documents = (results_page.document(name, facts, rows) for rows in growing)
            file, last = results_page.keep_last(options.output, "patches", documents)
            progress.say(f"written: {file}")
            printed[name] = last["rows"]
    results_page.write(options.output, "patches", HEAD, SECTIONS)
    print(json.dumps({"benchmark": "patches", **printed}))


if __name__ == "__main__":
    command.run(main)
