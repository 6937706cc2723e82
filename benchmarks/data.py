"""Measure how datasets are prepared, compared and checked. Writes results/data.md.

    python benchmarks/data.py decode                                   # pictures of 12 megapixels
    python benchmarks/data.py decode --files 20000 --width 32 --height 32 --size 32 --name small
    python benchmarks/data.py rows                                     # versions of 1,000,000 images
    python benchmarks/data.py labels --seeds 0,1,2                     # changed labels of CIFAR-10

`decode` and `rows` make what they need in a temporary folder; `labels` needs `raycls data prepare cifar10`. The last
line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from harness import data_decoding, data_rows, results_page
from harness.results_page import Document, median, ratio, table

from raycls import command

RESULTS = Path(__file__).parent / "results"
HEAD = """# Preparing, comparing and checking data

Made by `python benchmarks/data.py decode`, `rows` and `labels`.
"""
DECODING = """## Decoding

Each round decodes all pictures twice in turns: by raycls, and by bare processes, one for each core, which only read,
decode and resize the same files with the same settings. The table has the median ratio and the range. Memory is the
largest that a process held alone (USS).

"""
ROWS = """## Versions with many rows

Two versions of {count:,} images in {classes:,} classes. Each step runs in a process of its own.

"""
STEPS = {
    "list": "list the versions, read the rows of one",
    "diff": "compare two versions: 5% added, 2% removed, 1% relabelled",
    "split": "find the former splits in both versions, and split the images, of which a tenth is new",
}
LABELS = """## Label errors

A share of CIFAR-10's labels is changed at random, in all splits. `raycls data check` trains models on parts of the
dataset and lists probable label errors. CIFAR-10's own label errors count as wrong finds here.

"""


def decoding_section(documents: dict[str, Document]) -> str:
    header = (
        "pictures",
        "raycls, images/s",
        "bare",
        "ratio (goal 0.9)",
        "driver",
        "worker",
        "scratch / result",
    )
    lines = []
    for document in documents.values():
        rows, given = document["rows"], document["arguments"]
        ratios = [row["raycls_per_s"] / row["bare_per_s"] for row in rows]
        lines.append(
            (
                f"{given['files']:,} JPEG of {given['width']}×{given['height']} to {given['size']}",
                f"{median(rows, 'raycls_per_s'):,.0f}",
                f"{median(rows, 'bare_per_s'):,.0f}",
                f"{ratio(ratios)}, n={len(ratios)}",
                *(f"{max(row[name] for row in rows):.0f} MB" for name in ("driver_mb", "worker_mb")),
                f"{max(row['disk_share'] for row in rows):.2f}",
            )
        )
    return DECODING + table(header, lines)


def rows_section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    count = document["arguments"]["count"]
    header = ("step", "seconds (goal 30 for all)", "peak memory of the process (goal 2,000 MB)")
    lines = [
        (STEPS[row["step"]], f"{row['seconds']:.1f}", f"{row['peak_mb']:,} MB") for row in document["rows"]
    ]
    return ROWS.format(count=count, classes=data_rows.CLASSES) + table(header, lines)


def labels_section(documents: dict[str, Document]) -> str:
    header = (
        "preset, folds",
        "changed",
        "listed",
        "recall (goal 0.80)",
        "precision (goal 0.70)",
        "models' accuracy",
    )
    lines = []
    for document in documents.values():
        rows, given = document["rows"], document["arguments"]
        measures = (("listed", ",.0f"), ("recall", ".3f"), ("precision", ".3f"), ("accuracy", ".3f"))
        lines.append(
            (
                f"{given['preset']}, {given['folds']}",
                f"{rows[0]['changed']:,} of {rows[0]['images']:,}",
                *(_range(rows, name, form) for name, form in measures),
            )
        )
    return LABELS + table(header, lines)


def _range(rows: list[dict[str, Any]], name: str, form: str) -> str:
    values = [row[name] for row in rows]
    middle = format(statistics.median(values), form)
    return (
        middle
        if len(values) == 1
        else f"{middle} ({min(values):{form}} to {max(values):{form}}, n={len(values)})"
    )


SECTIONS = {"decode": decoding_section, "rows": rows_section, "labels": labels_section}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    decode = parts.add_parser("decode", help="images/s beside bare processes, memory, scratch on disk")
    decode.add_argument("--name", default="photographs", help="of the table's row")
    decode.add_argument("--files", type=int, default=400)
    decode.add_argument("--width", type=int, default=4000, help="pixels")
    decode.add_argument("--height", type=int, default=3000, help="pixels")
    decode.add_argument("--size", type=int, default=64, help="pixels a side of the result")
    decode.add_argument("--rounds", type=int, default=5)
    rows = parts.add_parser("rows", help="versions with many rows are listed, compared and split")
    rows.add_argument("--count", type=int, default=1_000_000, help="images")
    labels = parts.add_parser("labels", help="labels of CIFAR-10 are changed, and the check looks for them")
    labels.add_argument("--share", type=float, default=0.03, help="of the labels that are changed")
    labels.add_argument("--preset", default="quick")
    labels.add_argument("--folds", type=int, default=4)
    labels.add_argument("--seeds", type=results_page.seeds, default=[0])
    options = parser.parse_args(arguments)

    given = {name: value for name, value in vars(options).items() if name not in ("part", "name")}
    name = options.part
    if options.part == "decode":
        name = f"decode-{options.name}"
        found = data_decoding.measure(**given)
    elif options.part == "rows":
        found = data_rows.measure(options.count)
    else:
        from harness import data_labels  # imports PyTorch, whose memory is not the decoding's

        choice = (options.share, options.preset, options.folds)
        found = [data_labels.measure("cifar10", *choice, seed) for seed in options.seeds]
    document = results_page.document(name, given, found)
    results_page.keep(RESULTS, "data", document)
    results_page.write(RESULTS, "data", HEAD, SECTIONS)
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
