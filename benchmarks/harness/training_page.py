"""The results page of benchmarks/training.py.

    write(Path("benchmarks/results"))    # reads results/training/*.json, writes results/training.md

A ratio is the median of the pairs' ratios; a spread is the sample standard deviation.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from harness import results_page
from harness.results_page import Document, Row, Section, mean_and_spread, median, ratio, share, table

GOALS = {  # goals of each preset on CIFAR-10 with two CPU cores: (test accuracy, epochs of the plain peer)
    "quick": (0.874, 2.2),
    "fast": (0.90, 4.2),
    "strong": (0.93, 16.0),
    "accurate": (0.94, 40.0),
    "accurate-refit": (0.938, 40.0),
}
HEAD = """\
# Training

Each table has its date and n. Both sides of a pair were measured in turns. Accuracy is on the test split, without
test-time augmentation unless `network.mirror` is set. The kept epoch is chosen on the validation split; a *refit*
learns from that split too, and keeps its last epoch. Time is that of the training loop, with whitening, augmentation
and validation, without the start of processes.

The peer is `benchmarks/peers/plain_cnn.py`: two convolutions, Adam, batches of 64, a DataLoader over PIL transforms.
Its epoch is the pass over the training split alone. From 22 November 2026 on, it is the mean of one epoch before the
run and one after it.

The machine's speed changes up to twofold from day to day. Compare seconds only within one date. The ratios of pairs can
be compared everywhere.
"""


def write(results: Path) -> Path:
    """Rebuild the page and return its path."""
    return results_page.write(results, "training", HEAD, SECTIONS)


def preset_summary(rows: list[Row]) -> dict[str, float | None]:
    """Return means and sample standard deviations over the seeds. peer_epochs is the median of the pairs' ratios."""
    accuracies = [row["test_accuracy"] for row in rows]
    return {
        "test_accuracy": statistics.mean(accuracies),
        "test_accuracy_std": statistics.stdev(accuracies) if len(rows) > 1 else None,
        "train_seconds": median(rows, "train_seconds"),
        "peer_epoch_seconds": median(rows, "peer_epoch_seconds"),
        "peer_epochs": statistics.median(_peer_epochs(rows)),
        "peer_test_accuracy": statistics.mean(row["peer_test_accuracy"] for row in rows),
    }


def _peer_epochs(rows: list[Row]) -> list[float]:
    return [row["train_seconds"] / row["peer_epoch_seconds"] for row in rows]


def _presets(documents: dict[str, Document]) -> str:
    lines, seeds = [], []
    order = [f"presets-{name}" for name in GOALS]
    for name in sorted(documents, key=lambda name: order.index(name) if name in order else len(order)):
        document = documents[name]
        preset, rows = document["arguments"]["preset"], document["rows"]
        figures = preset_summary(rows)
        refit = document["arguments"].get("refit", False)
        goal = GOALS.get(name.removeprefix("presets-"))
        preset = " ".join(
            [f"`{preset}`", *(["refit"] if refit else ()), *document["arguments"].get("settings", ())]
        )
        lines.append(
            (
                preset,
                share(figures["test_accuracy"], figures["test_accuracy_std"]),
                f"{figures['train_seconds']:.1f} s",
                ratio(_peer_epochs(rows)),
                f"{figures['peer_epoch_seconds']:.1f} s",
                f"{goal[0]:.1%} in {goal[1]:g}" if goal else "",
                len(rows),
                document["date"],
            )
        )
        seeds += [
            (
                preset, row["seed"], f"{row['test_accuracy']:.2%}",
                f"{row['val_accuracy']:.2%}" if "val_accuracy" in row else "",
                f"{row['train_seconds']:.1f}", f"{row['peer_epoch_seconds']:.1f}", f"{row['peer_test_accuracy']:.2%}",
            )
            for row in rows
        ]  # fmt: skip
    header = (
        "preset",
        "test accuracy",
        "training loop",
        "time in epochs of the plain peer",
        "the peer's epoch",
        "goal",
        "n",
        "measured (UTC)",
    )
    detail = (
        "preset",
        "seed",
        "test",
        "validation",
        "training loop, s",
        "peer's epoch, s",
        "peer's accuracy after it",
    )
    return (
        "## Presets on CIFAR-10, under Ray Train\n\n"
        f"{table(header, lines)}\nAccuracies are mean ± standard deviation over the seeds; seconds are medians.\n\n"
        f"<details><summary>Every run</summary>\n\n{table(detail, seeds)}\n</details>\n"
    )


def _ray(documents: dict[str, Document]) -> str:
    lines = []
    for document in documents.values():
        rows, arguments = document["rows"], document["arguments"]
        ratios = [row["ray_seconds"] / row["bare_seconds"] for row in rows]
        lines.append(
            (
                f"{arguments['workers']} × {arguments['threads']}",
                f"{median(rows, 'bare_seconds'):.1f} s",
                f"{median(rows, 'ray_seconds'):.1f} s",
                ratio(ratios),
                len(rows),
                document["date"],
            )
        )
    header = (
        "workers × threads",
        "bare processes",
        "under Ray Train",
        "ratio of each pair",
        "n",
        "measured (UTC)",
    )
    return (
        f"## What Ray costs while training\n\nThe whole training loop of `quick`.\n\n{table(header, lines)}"
    )


def _workers(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    ratios = [row["images_per_s_2"] / row["images_per_s_1"] for row in rows]
    line = (
        f"{median(rows, 'images_per_s_1'):,.0f}", f"{median(rows, 'images_per_s_2'):,.0f}", ratio(ratios),
        len(rows), document["date"],
    )  # fmt: skip
    header = ("one worker, images/s", "two workers, images/s", "ratio of each pair", "n", "measured (UTC)")
    return f"## Two workers against one, one thread each, under Ray Train\n\n{table(header, [line])}"


def _agreement(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    means = [
        share(*mean_and_spread(row[f"test_accuracy_{count}"] for row in document["rows"])) for count in (1, 2)
    ]
    header = ("one worker", "two workers", "n", "measured (UTC)")
    line = (*means, len(document["rows"]), document["date"])
    return f"## Test accuracy of `fast` with one worker and with two, same global batch\n\n{table(header, [line])}"


def _memory(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    (row,) = document["rows"]
    line = [f"{row[f'peak_memory_{kind}'] / 2**30:.2f} GiB" for kind in ("total", "private", "file")]
    header = ("peak resident memory", "private at the end", "mapped files at the end", "measured (UTC)")
    return (
        f"## Memory of one worker, `fast` on CIFAR-10\n\n{table(header, [(*line, document['date'])])}\n"
        "Mapped files are the dataset and the libraries. The kernel drops their pages when memory is short.\n"
    )


def _levers(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    names = list(dict.fromkeys(row["lever"] for row in rows))
    base = median([row for row in rows if row["lever"] == names[0]], "train_seconds")
    lines = []
    for name in names:
        mine = [row for row in rows if row["lever"] == name]
        seconds = median(mine, "train_seconds")
        accuracy = share(*mean_and_spread(row["test_accuracy"] for row in mine))
        lines.append((name, f"{seconds:.1f} s", f"{seconds / base:.2f} ×", accuracy, len(mine)))
    header = ("`fast`", "training loop", "time", "test accuracy", "n")
    return (
        f"## The effect of each setting of `fast`\n\nThe training loop in bare processes, {document['date']} UTC: the "
        "preset with two workers of one thread, then with one setting changed. The runs were not paired. In a single "
        "run, 10% of the time or 0.25 points of accuracy is noise.\n\n"
        f"{table(header, lines)}"
    )


def _networks(documents: dict[str, Document]) -> str:
    lines = []
    for document in documents.values():
        rows = document["rows"]
        for network, init in dict.fromkeys((row["network"], row["init"]) for row in rows):
            mine = [row for row in rows if (row["network"], row["init"]) == (network, init)]
            lines.append(
                (
                    document["arguments"]["dataset"],
                    f"`{network}`" + (f" from {init}" if init else ""),
                    share(*mean_and_spread(row["test_accuracy"] for row in mine)),
                    share(*mean_and_spread(row["test_macro_accuracy"] for row in mine)),
                    f"{median(mine, 'train_seconds'):.1f} s",
                    len(mine),
                    document["date"],
                )
            )
    header = (
        "dataset",
        "network",
        "test accuracy",
        "mean over classes",
        "training loop",
        "n",
        "measured (UTC)",
    )
    return (
        f"## Networks and datasets, preset `fast`\n\n{table(header, lines)}\n"
        "`mlp` and `cnn` are trained with AdamW, `fastcnn` with Muon. If a class has few test images, a single one of "
        "them changes the mean over classes by points.\n"
    )


SECTIONS: dict[str, Section] = {
    "presets": _presets,
    "ray": _ray,
    "workers": _workers,
    "agreement": _agreement,
    "memory": _memory,
    "levers": _levers,
    "networks": _networks,
}
