"""The rows part of benchmarks/data.py: versions with many rows are listed, compared and split, each in a new process.

    rows = measure(count=1_000_000)        # seconds and peak memory of each step

The images are of 8×8 pixels, because only the rows matter. Version 2 has other rows than version 1: 5% are new, 2% are
gone, and 1% have another label.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

CLASSES = 1000
SIDE = 8


def measure(count: int) -> list[dict[str, Any]]:
    """Return a row for each step: its name, seconds and peak MB of its process, with Python and the imports."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for step in ("make", *STEPS):
            command = [sys.executable, __file__, step, str(count)]
            done = subprocess.run(
                command,
                env={**os.environ, "RAYCLS_HOME": home},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            if step != "make":
                rows.append({"step": step, **json.loads(done.stdout.splitlines()[-1])})
    return rows


def _rows(first: int, last: int, relabelled: int) -> pa.Table:
    """Return the rows of images first to last - 1. Every `relabelled`-th has another label than the image's own."""
    from hashlib import sha256

    from raycls.data.manifest import SCHEMA

    numbers = range(first, last)
    labels = [(i * 7919 + (i % relabelled == 1 if relabelled else 0)) % CLASSES for i in numbers]
    digests = [sha256(str(i).encode()).hexdigest() for i in numbers]
    count = len(digests)
    columns = {
        "source": [f"class-{i * 7919 % CLASSES:04}/image-{i:09}.jpg" for i in numbers],
        "sha256": digests,
        "label": [f"class-{label:04}" for label in labels],
        "split": ["train"] * count,
        "group": [digest[:16] for digest in digests],
        "width": np.full(count, 500, np.int32),
        "height": np.full(count, 400, np.int32),
        "mode": ["RGB"] * count,
        "phash": [int(digest[:16], 16) for digest in digests],
        "noticed": [""] * count,
    }
    return pa.table({name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()})


def make(count: int) -> None:
    """Write the two versions."""
    from raycls.data.manifest import left_out_table
    from raycls.data.splits import NEW, SHARES, assign
    from raycls.data.writer import reserved, write_version

    classes = tuple(f"class-{label:04}" for label in range(CLASSES))
    for version, made in (
        (1, _rows(0, count, 0)),
        (2, _rows(count // 50, count + count // 20, 100)),
    ):
        labels = np.array([int(label[-4:]) for label in made["label"].to_pylist()])
        groups = made["group"].to_numpy(zero_copy_only=False)
        split = assign(labels, groups, np.full(len(labels), NEW), SHARES)
        order = np.argsort(split, kind="stable")
        names = np.array(list(SHARES), dtype=object)[split[order]]
        rows = made.take(order).set_column(3, "split", pa.array(names, pa.string()))
        with reserved("many"), write_version("many", version) as writer:
            for index, name in enumerate(SHARES):
                writer.array(name, int((split == index).sum()), SIDE)[:, 0, 0, 0] = 1
            writer.publish(
                classes=classes,
                labels={name: labels[split == index] for index, name in enumerate(SHARES)},
                mirrorable=True,
                source="made",
                licence="none",
                rows=rows,
                left_out=left_out_table([]),
            )


def list_rows() -> str:
    """What `raycls data list` and `raycls data show` read."""
    from raycls.data.manifest import read_rows
    from raycls.data.versions import list_datasets, open_dataset

    return f"{len(list_datasets())} versions, {len(read_rows(open_dataset('many@2'))):,} rows"


def compare() -> str:
    """What `raycls data diff` computes."""
    from raycls.data.manifest import difference, read_rows
    from raycls.data.versions import open_dataset

    return str(difference(read_rows(open_dataset("many@1")), read_rows(open_dataset("many@2"))))


def split() -> str:
    """What a preparation computes for the splits of images that are mostly known: see raycls/data/assemble.py."""
    from raycls.data.history import former_splits
    from raycls.data.manifest import read_rows
    from raycls.data.splits import NEW, SHARES, assign
    from raycls.data.versions import open_dataset

    dataset = open_dataset("many@2")
    rows = read_rows(dataset)
    columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in ("source", "sha256", "phash")}
    # A tenth of the images is new.
    fresh = np.arange(len(rows)) % 10 == 0
    columns["sha256"] = np.where(
        fresh, np.char.add("new", columns["sha256"].astype(str)).astype(object), columns["sha256"]
    )
    columns["key"] = np.full(len(rows), "", dtype=object)
    labels = np.concatenate([dataset.labels(name) for name in dataset.info.counts])
    former = former_splits("many", columns, labels, dataset.info.classes, lambda positions: np.empty(0))
    groups = np.where(former.splits == NEW, columns["sha256"], former.groups)
    found = assign(labels, groups, former.splits, SHARES)
    return f"{np.bincount(found).tolist()} images, of which {(former.splits == NEW).sum():,} are new"


STEPS: dict[str, Callable[[], str]] = {"list": list_rows, "diff": compare, "split": split}


def main(step: str, count: int) -> None:
    started = time.perf_counter()
    if step == "make":
        make(count)
        return
    told = STEPS[step]()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(peak), "told": told}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
