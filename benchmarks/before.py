"""Measure training beside an older checkout of raycls: the time of a step, and the accuracy on the same folds.

    git worktree add ../before 36cccf9
    python benchmarks/before.py step --dataset cifar10 --before ../before
    python benchmarks/before.py folds --dataset emotions --before ../before --set network.mirror=true

`step`: two workers with one thread each train one epoch, of either checkout in turns. `folds`: the images are dealt out
to folds, each of which is measured by networks of either checkout that learned from the others; images of one group (of
one person, with `raycls data prepare --group-by`) are in one fold. Both run in bare processes without Ray, in this
environment. The results go to OUTPUT/before/PART-DATASET.json, and the page OUTPUT/before.md is rebuilt. The last line
of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import results_page
from harness.folds import folds
from harness.results_page import Document, Row, ratio, share, table

from raycls import command, machine, metrics, progress
from raycls.cluster.environment import free_port
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError

RESULTS = Path(__file__).parent / "results"
FIT = Path(__file__).parent / "harness" / "checkout_fit.py"
THIS, BEFORE = "this", "before"
# What an older version knows of a dataset.
FACTS = (
    "name",
    "classes",
    "image_size",
    "counts",
    "class_counts",
    "mean",
    "std",
    "mirrorable",
    "source",
    "licence",
)
RESAMPLES = 2_000
HEAD = """# Training, beside an older version

Made by `python benchmarks/before.py`. Both checkouts train in bare processes, with the same libraries, on the same
images.
"""


def fit(
    checkout: Path, dataset: PackedDataset, preset: str, settings: list[str], **more: Any
) -> dict[str, Any]:
    """Train with a checkout's code and return the document of `harness/checkout_fit.py`. Raises BenchmarkError."""
    info = dataset.info.model_dump(mode="json", include=set(FACTS)) | {"sha256": {}, "fingerprint": "0" * 64}
    spec = {
        "folder": str(dataset.path),
        "info": info,
        "preset": preset,
        "settings": settings,
        "port": free_port(20_000),
        **more,
    }
    done = subprocess.run(
        [sys.executable, str(FIT), json.dumps(spec)],
        env=os.environ | {"PYTHONPATH": str(checkout.absolute())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"the training of {checkout} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def step(dataset: PackedDataset, checkouts: dict[str, Path], preset: str, pairs: int) -> Iterator[Row]:
    """Yield the images/s of one epoch by two workers, of either checkout in turns."""
    for pair in range(pairs):
        for name in sorted(checkouts, reverse=bool(pair % 2)):
            progress.say(f"pair {pair + 1} of {pairs}: {name}")
            settings = ["training.epochs=1", "training.reduced_share=0"]
            found = fit(checkouts[name], dataset, preset, settings, workers=2, threads=1)
            yield {"pair": pair, "arm": name, "images_per_s": found["epochs"][-1]["images_per_s"]}


def measured_folds(
    dataset: PackedDataset,
    checkouts: dict[str, Path],
    preset: str,
    settings: dict[str, list[str]],
    public: dict[str, str],
    count: int,
    seeds: int,
) -> Iterator[Row]:
    """Yield the predicted classes of each fold, of either checkout in turns.

    public: network and weights that this checkout starts from; {}: random weights of the preset's network.
    """
    for seed in range(seeds):
        for fold in folds(dataset, count, 1):
            with fold.dataset(validation=0.1) as part:
                for name in sorted(checkouts, reverse=bool(fold.number % 2)):
                    progress.say(f"seed {seed}, fold {fold.number + 1} of {count}: {name}")
                    own = [*settings[name], f"training.seed={seed}"]
                    start = public if name == THIS else {}
                    found = fit(
                        checkouts[name], part, preset, own, workers=1, threads=machine.cores(), **start
                    )
                    yield {
                        "seed": seed,
                        "fold": fold.number,
                        "arm": name,
                        "seconds": found["epochs"][-1]["train_seconds"],
                        "images": fold.inside.tolist(),
                        "labels": part.labels("test").tolist(),
                        "predicted": found["predicted"],
                    }


def _step_section(documents: dict[str, Document]) -> str:
    lines = []
    for document in documents.values():
        rate = {
            arm: [row["images_per_s"] for row in document["rows"] if row["arm"] == arm]
            for arm in (THIS, BEFORE)
        }
        pairs = [own / other for own, other in zip(rate[THIS], rate[BEFORE], strict=True)]
        of_both = [f"{statistics.median(rate[arm]):,.0f}" for arm in (BEFORE, THIS)]
        lines.append(
            (
                document["arguments"]["dataset"],
                document["arguments"]["before"],
                *of_both,
                ratio(pairs),
                len(pairs),
            )
        )
    header = ("dataset", "before", "images/s before", "images/s", "×", "n")
    return "## Images per second, two workers of one thread\n\n" + table(header, lines)


def _recall(rows: list[Row], classes: int, weights: np.ndarray) -> float:
    """Return the macro recall over rows. weights (int64): how often each image counts."""
    counts = np.zeros((classes, classes))
    for row in rows:
        np.add.at(counts, (row["labels"], row["predicted"]), weights[row["images"]])
    return float(np.nanmean(metrics.class_accuracy(counts.diagonal(), counts.sum(1))))


def _folds_section(documents: dict[str, Document]) -> str:
    parts = []
    for document in documents.values():
        given, rows = document["arguments"], document["rows"]
        by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in (BEFORE, THIS)}
        classes = given["classes"]
        images = 1 + max(max(row["images"]) for row in rows)
        once = np.ones(images, dtype=np.int64)
        recall = {arm: _recall(mine, classes, once) for arm, mine in by_arm.items()}
        # Whole groups are drawn, as images of one person are not independent.
        random, groups = np.random.default_rng(0), np.array(given["groups"])
        differences = []
        for _ in range(RESAMPLES):
            drawn = np.bincount(
                random.integers(groups.max() + 1, size=groups.max() + 1), minlength=groups.max() + 1
            )
            weights = drawn[groups]
            differences.append(
                _recall(by_arm[THIS], classes, weights) - _recall(by_arm[BEFORE], classes, weights)
            )
        low, high = np.quantile(differences, (0.025, 0.975))
        lines = [
            (
                " ".join([arm, *(given["network"] or "").split() * (arm == THIS), *given["settings"][arm]]),
                share(recall[arm]),
                f"{statistics.median(row['seconds'] for row in mine):.0f} s",
            )
            for arm, mine in by_arm.items()
        ]
        gain = 100 * (recall[THIS] - recall[BEFORE])
        facts = (
            f"{images:,} images of {groups.max() + 1:,} groups, preset `{given['preset']}`, {given['folds']} folds, "
            f"{given['seeds']} seeds. The difference is **{gain:+.1f} points** (95% interval {100 * low:+.1f} to "
            f"{100 * high:+.1f}, from {RESAMPLES:,} samples of the groups)."
        )
        parts.append(
            f"## {given['dataset']}: macro recall\n\n{facts}\n\n"
            + table(("version", "macro recall", "time of a training"), lines)
        )
    return "\n".join(parts)


def measure(options: argparse.Namespace) -> Iterator[Document]:
    """Yield the part's document after each row."""
    dataset = open_dataset(options.dataset)
    checkouts = {THIS: Path(__file__).parents[1], BEFORE: options.before}
    arguments: dict[str, Any] = {
        "dataset": dataset.info.reference,
        "preset": options.preset,
        "before": options.before.name,
        "classes": len(dataset.info.classes),
    }
    if options.part == "step":
        found = step(dataset, checkouts, options.preset, options.pairs)
    else:
        from raycls.data.manifest import read_rows

        settings = {THIS: options.set, BEFORE: options.set_before}
        names = read_rows(dataset)["group"].to_numpy(zero_copy_only=False).astype(str)
        groups = np.unique(names, return_inverse=True)[1].tolist()
        public = {"network": options.network, "weights": str(options.weights)} if options.network else {}
        arguments |= {
            "settings": settings,
            "network": options.network,
            "folds": options.folds,
            "seeds": options.seeds,
            "groups": groups,
        }
        found = measured_folds(
            dataset, checkouts, options.preset, settings, public, options.folds, options.seeds
        )
    rows: list[Row] = []
    for row in found:
        rows.append(row)
        yield results_page.document(f"{options.part}-{dataset.info.name}", arguments, rows)


def main(arguments: list[str]) -> None:
    """Measure one part, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["step", "folds"])
    parser.add_argument("--dataset", required=True, help="a prepared dataset")
    parser.add_argument("--before", type=Path, required=True, help="folder of the older checkout")
    parser.add_argument("--preset", default="fast", help="(default: fast)")
    parser.add_argument("--pairs", type=int, default=7, help="step: (default: 7)")
    parser.add_argument("--folds", type=int, default=5, help="folds: (default: 5)")
    parser.add_argument("--seeds", type=int, default=3, help="folds: trainings of each fold (default: 3)")
    parser.add_argument("--set", action="append", default=[], help="folds: KEY=VALUE of this version")
    parser.add_argument("--network", help="folds: a network with public weights, of this version")
    parser.add_argument("--weights", type=Path, help="folds: the file of its weights")
    parser.add_argument("--set-before", action="append", default=[], help="folds: KEY=VALUE of the older one")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    file, document = results_page.keep_last(options.output, "before", measure(options))
    page = results_page.write(
        options.output, "before", HEAD, {"step": _step_section, "folds": _folds_section}
    )
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
