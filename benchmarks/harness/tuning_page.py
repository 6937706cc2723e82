"""The page of tuning's benchmark: what each part of it makes of its rows.

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

What a study costs and what it finds: preset `quick` on part of CIFAR-10's training images, trials of one core each.
Compute is counted in epochs, all over as many images; wall time is the whole search's, the start of Ray included, and
not the winner's training afterwards. Each table says when it was measured and how often; what is compared was run in
turns.

Killed 20 times at random moments (driver, trials or the whole cluster), one study ended like an undisturbed one: every
trial once, every epoch once, the same figures. `benchmarks/study_kills.py` measured it on 2026-11-21.
"""


def write(results: Path) -> Path:
    """Make the page anew."""
    return results_page.write(results, "tuning", HEAD, SECTIONS)


def _cost(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    line = (
        f"**{median(rows, 'seconds_per_trial'):.2f} s**", "at most 0.5 s", f"{median(rows, 'training_seconds'):.2f} s",
        len(rows), document["date"],
    )  # fmt: skip
    header = ("a trial beyond its training", "goal", "its training", "n", "measured (UTC)")
    return (
        "## What a trial costs\n\nA study of 20 trials in one process, from the end of its first trial to that of its "
        f"last: processes, both databases, checkpoints.\n\n{table(header, [line])}"
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
        "seed", "the grid's best", "default search: within 0.2 points after this share (goal: 0.20)",
        "default search, to its end", "random search, as much compute",
    )  # fmt: skip
    shares = [
        row["reached_epochs"] / row["grid_epochs"] if row["reached_epochs"] else math.inf for row in rows
    ]
    middle = statistics.median(shares)
    told = f"Median share {middle:.2f}. " if middle < math.inf else "In the median seed, never. "
    won = sum(row["best"] >= row["random_best"] for row in rows)
    return (
        "## The default search, the full grid and random search\n\nValidation accuracy. The grid is 4 batch sizes × 4 "
        f"learning rates × 3 dropouts, every trial to its last epoch.\n\n{table(header, lines)}\n{told}The default "
        f"search is at or above random search in {won} of {len(rows)} seeds. Measured {document['date']} UTC.\n"
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
        "every trial to its end",
        "ASHA",
        "compute",
        "every trial to its end, in ASHA's compute",
    )
    return (
        "## Stopping hopeless trials early\n\nThe best validation accuracy of 24 trials of 9 epochs, on a twentieth of "
        f"the images, found by TPE.\n\n{table(header, lines)}\nMeasured {document['date']} UTC.\n"
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
        for kind, name in (("plain", "as it comes"), ("helped", "with raycls's allocator settings"))
    ]
    header = (
        "plain Optuna, one process",
        "it",
        "raycls",
        "ratio of each pair (goal: 0.80)",
        "epochs of both",
        "n",
    )
    return (
        "## Wall time against plain Optuna, same trials, loop and cores\n\nThe peer trains one trial at a time on "
        "all cores; raycls one on each core, and starts Ray first.\n\n"
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
    return f"## Wall time on more nodes, simulated on this machine\n\n{table(header, [line])}"


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
        "chosen in the study",
        "the same again",
        "served",
        "ratio (goal: 0.85 to 1.15)",
    )
    return (
        "## The latency of a study and of the served model\n\nForward pass of one image: before the first trial; the "
        "same again afterwards, in turns with a replica that answers one request after another.\n\n"
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
