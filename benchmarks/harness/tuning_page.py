"""The results page of benchmarks/tuning.py.

write(Path("benchmarks/results"))    # reads results/tuning/*.json, writes results/tuning.md
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from harness import results_page
from harness.results_page import Document, Row, Section, median, ratio, share, table

HEAD = """\
# Tuning

What a study costs and what it finds. All studies use preset `quick` on a part of CIFAR-10's training images, and each
trial uses one core. Compute is counted in epochs over the same number of images. Wall time covers the whole search with
the start of Ray, but not the training of the winner. Each table has its date and n. Both sides of a comparison ran in
turns.

One study was killed 20 times at random moments (driver, trials or the whole cluster). It ended like an undisturbed
study: every trial once, every epoch once, the same values. `benchmarks/study_kills.py` measured this on 2026-11-21.
"""


def write(results: Path) -> Path:
    """Rebuild the page and return its path."""
    return results_page.write(results, "tuning", HEAD, SECTIONS)


def _cost(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    line = (
        f"**{median(rows, 'seconds_per_trial'):.2f} s**", "at most 0.5 s", f"{median(rows, 'training_seconds'):.2f} s",
        len(rows), document["date"],
    )  # fmt: skip
    header = ("time of a trial beside its training", "goal", "its training", "n", "measured (UTC)")
    return (
        "## What a trial costs\n\nA study of 20 trials in one process, from the end of the first trial to the end of "
        f"the last. The cost includes processes, both databases and checkpoints.\n\n{table(header, [line])}"
    )


def _grid(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]

    def reached(row: Row, key: str) -> str:
        epochs = row[key]
        return f"**{epochs / row['grid_epochs']:.2f}** ({epochs:.0f} epochs)" if epochs else "never"

    def found(row: Row, kind: str) -> str:
        return f"{share(row[f'{kind}best'])} in {row[f'{kind}epochs']} epochs"

    lines = [
        (
            row["seed"],
            found(row, "grid_"),
            reached(row, "reached_epochs"),
            found(row, ""),
            found(row, "random_"),
        )
        for row in rows
    ]
    header = (
        "seed", "best of the grid",
        "share of the grid's compute until the default search is within 0.2 points (goal: 0.20)",
        "best of the default search", "best of random search in the same compute",
    )  # fmt: skip
    shares = [
        row["reached_epochs"] / row["grid_epochs"] if row["reached_epochs"] else math.inf for row in rows
    ]
    middle = statistics.median(shares)
    summary = (
        f"The median share is {middle:.2f}. "
        if middle < math.inf
        else "The median seed never comes so near. "
    )
    won = sum(row["best"] >= row["random_best"] for row in rows)
    return (
        "## The default search, the full grid and random search\n\nValues are validation accuracies. The grid is 4 "
        "batch sizes × 4 learning rates × 3 dropouts. No trial is stopped early.\n\n"
        f"{table(header, lines)}\n{summary}The default search finds at least as much as random search in {won} of "
        f"{len(rows)} seeds. Measured {document['date']} UTC.\n"
    )


def _stopping(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    lines = [
        (
            row["seed"],
            f"{share(row['none_best'])} in {row['none_epochs']} epochs",
            f"{share(row['asha_best'])} in {row['asha_epochs']} epochs, {row['stopped_early']} stopped early",
            f"**{row['asha_epochs'] / row['none_epochs']:.2f}**",
            share(row["none_best_in_as_much"]),
        )
        for row in rows
    ]
    header = (
        "seed",
        "without early stopping",
        "ASHA",
        "ratio of the compute",
        "without early stopping, in ASHA's compute",
    )
    return (
        "## Early stopping\n\nThe best validation accuracy of 24 trials of 9 epochs on a twentieth of the images. TPE "
        f"searches.\n\n{table(header, lines)}\nMeasured {document['date']} UTC.\n"
    )


def _optuna(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    lines = [
        (
            name,
            f"{median(rows, f'{kind}_seconds'):.0f} s",
            f"{median(rows, 'seconds'):.0f} s",
            ratio([row["seconds"] / row[f"{kind}_seconds"] for row in rows]),
            f"{median(rows, f'{kind}_epochs'):.0f}, {median(rows, 'epochs'):.0f}",
            len(rows),
        )
        for kind, name in (("plain", "default settings"), ("helped", "with raycls's allocator settings"))
    ]
    header = (
        "plain Optuna, one process",
        "its wall time",
        "raycls's wall time",
        "ratio of each pair (goal: 0.80)",
        "epochs of both",
        "n",
    )
    return (
        "## Wall time against plain Optuna, same trials, training loop and cores\n\nThe peer trains one trial at a "
        "time on all cores. raycls trains one trial on each core, and starts Ray first.\n\n"
        f"{table(header, lines)}\nMeasured {document['date']} UTC.\n"
    )


def _nodes(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    line = (
        f"{median(rows, 'seconds_1'):.0f} s", f"{median(rows, 'seconds_2'):.0f} s",
        ratio([row["seconds_2"] / row["seconds_1"] for row in rows]), "at most 0.60", len(rows), document["date"],
    )  # fmt: skip
    header = (
        "one node of one core",
        "two nodes of one core",
        "ratio of each pair",
        "goal",
        "n",
        "measured (UTC)",
    )
    return f"## Wall time on two nodes, simulated on one machine\n\n{table(header, [line])}"


def _served(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    lines = [
        (
            row["seed"],
            f"{len(row['front'])} points, {share(row['front'][0][1])} in {row['front'][0][0]:.2f} ms to "
            f"{share(row['front'][-1][1])} in {row['front'][-1][0]:.2f} ms",
            f"{row['latency_ms']:.2f} ms",
            f"{row['again_ms']:.2f} ms",
            f"{row['served_ms']:.2f} ms",
            f"**{row['served_ms'] / row['again_ms']:.2f}**",
        )
        for row in rows
    ]
    header = (
        "seed",
        "Pareto front",
        "latency in the study",
        "measured again",
        "served",
        "ratio served / measured again (goal: 0.85 to 1.15)",
    )
    return (
        "## The latency in a study and of the served model\n\nThe forward pass of one image. The study measures it "
        "before the first trial. It is measured again afterwards, in turns with a replica that answers one request "
        "after another.\n\n"
        f"{table(header, lines)}\nMeasured {document['date']} UTC.\n"
    )


SECTIONS: dict[str, Section] = {
    "cost": _cost,
    "grid": _grid,
    "stopping": _stopping,
    "optuna": _optuna,
    "nodes": _nodes,
    "served": _served,
}
