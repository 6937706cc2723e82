"""Measure what fine-tuning gives: a model that was trained on a part of the images, trained on with all of them.

    python benchmarks/finetuning.py --dataset clothing --parent 0.9 --seeds 0,1,2

For each seed, a parent is trained on a share of the training images. Then, in turns and on all images: a new network,
the parent with the recipe of `raycls train --init`, and the parent in a third of the epochs with several shares of the
learning rate of a new network. Each row has the accuracy, the log loss and the calibration error on the splits test and
gate together, which take no part in training. The results go to OUTPUT/finetuning/DATASET-PARENT.json, and the page
OUTPUT/finetuning.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness import results_page
from harness.results_page import Document, Row, mean_and_spread, seeds, share, table

from raycls import command, progress
from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.models.card import load_card
from raycls.training import loop
from raycls.training.calibration import calibrated
from raycls.training.evaluation import Evaluation, Scores, match, score
from raycls.training.recipes import configured

RESULTS = Path(__file__).parent / "results"
PARENT, SCRATCH, TUNED = "parent", "new network", "fine-tuned"
RATES = (0.1, 0.3, 1.0)  # shares of the learning rate of a new network
HEAD = """# Fine-tuning

Made by `python benchmarks/finetuning.py --dataset NAME --parent SHARE`. A parent is trained on a share of the training
images. Then all images are there. *Fine-tuned* is what `raycls train --init` does; until
2026-11-29 09:00 it took a tenth of the rate for any share of new images. The rows below it have other rates and a
third of the epochs.

Accuracy, log loss and calibration error (before and after the temperature) are those of the splits test and gate
together, as mean ± standard deviation over the seeds. The difference is the median over the seeds of the accuracy
minus that of the new network of the same seed, with the range.
"""


def measure(name: str, preset: str, parent_share: float, numbers: list[int]) -> Iterator[Document]:
    """Yield the dataset's document after each run."""
    dataset = open_dataset(name)
    arguments = {
        "dataset": dataset.info.reference,
        "preset": preset,
        "size": dataset.info.image_size,
        "parent": parent_share,
    }
    rows: list[Row] = []
    for seed in numbers:
        with tempfile.TemporaryDirectory() as folder:
            parent = Path(folder) / "parent"
            settings = [f"training.seed={seed}"]
            scratch = configured(dataset.info, preset, settings=settings)
            part = override(scratch, [f"training.train_fraction={parent_share}"])
            progress.say(f"{name}, seed {seed}: {PARENT}")
            rows.append({"seed": seed, "arm": PARENT, **run(part, dataset, parent)})
            tuned = configured(dataset.info, preset, settings=settings, init=load_card(parent))
            third = override(tuned, [f"training.epochs={max(1, round(tuned.training.epochs / 3))}"])
            arms: list[tuple[str, Config, Path | None]] = [(SCRATCH, scratch, None), (TUNED, tuned, parent)]
            for rate in RATES:
                config = override(third, [f"optim.lr={rate * scratch.optim.lr}", "optim.head_lr_factor=1"])
                arms.append((f"{rate:g} of the rate, a third of the epochs", config, parent))
            for arm, config, init in arms:
                progress.say(f"{name}, seed {seed}: {arm}")
                rows.append({"seed": seed, "arm": arm, **run(config, dataset, Path(folder) / "own", init)})
                yield results_page.document(f"{dataset.info.name}-{parent_share:g}", arguments, rows)


def run(config: Config, dataset: PackedDataset, directory: Path, init: Path | None = None) -> Row:
    """Train, keep the best epoch in `directory`, calibrate it, and return its figures on test and gate."""
    best, last = {config.training.chosen_by: -1.0}, {"train_seconds": 0.0}

    def on_epoch(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
        nonlocal best, last
        last = metrics
        if metrics[config.training.chosen_by] >= best[config.training.chosen_by]:
            best = metrics
            snapshot.save(directory)

    loop.fit(config, dataset, on_epoch=on_epoch, init=init)
    raw = Predictor.load(directory)
    found, before = (evaluated(each, dataset) for each in (calibrated(raw, dataset)[0], raw))
    return {
        "epochs": config.training.epochs,
        "best_epoch": int(best["epoch"]),
        "train_seconds": last["train_seconds"],
        "accuracy": found.accuracy,
        "log_loss": found.loss,
        "calibration_error": found.calibration_error,
        "calibration_error_before": before.calibration_error,
        "images": int(found.confusion.sum()),
    }


def evaluated(predictor: Predictor, dataset: PackedDataset) -> Evaluation:
    """Return the metrics on the splits test and gate together."""
    parts: list[Scores] = [
        score(predictor, match(predictor.card, dataset, each)) for each in ("test", "gate")
    ]
    return replace(
        parts[0],
        logits=torch.cat([part.logits for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
    ).evaluation()


def section(document: Document) -> str:
    """Return one dataset's part of the page."""
    rows, arguments = document["rows"], document["arguments"]
    scratch = {row["seed"]: row["accuracy"] for row in rows if row["arm"] == SCRATCH}
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        gains = [100 * (row["accuracy"] - scratch[row["seed"]]) for row in mine if row["seed"] in scratch]
        lines.append(
            (
                arm,
                mine[0]["epochs"],
                share(*mean_and_spread(row["accuracy"] for row in mine)),
                "" if arm == SCRATCH else f"{np.median(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})",
                f"{mean_and_spread(row['log_loss'] for row in mine)[0]:.3f}",
                " → ".join(
                    f"{mean_and_spread(row[key] for row in mine)[0]:.3f}"
                    for key in ("calibration_error_before", "calibration_error")
                ),
                len(mine),
            )
        )
    header = (
        "start",
        "epochs",
        "accuracy",
        "difference, points",
        "log loss",
        "calibration error",
        "n",
    )
    title = f"{arguments['dataset']}, parent on {arguments['parent']:.0%} of the images"
    facts = (
        f"Preset `{arguments['preset']}`, {arguments['size']} pixels, {rows[0]['images']} images measured, "
        f"{document['date']} (UTC)."
    )
    return f"## {title}\n\n{facts}\n\n{table(header, lines)}"


def write(results: Path) -> Path:
    """Rebuild the page and return its path."""
    names = sorted(file.stem for file in (results / "finetuning").glob("*.json"))
    sections = {
        name.partition("-")[0]: lambda found: "\n".join(map(section, found.values())) for name in names
    }
    return results_page.write(results, "finetuning", HEAD, sections)


def main(arguments: list[str]) -> None:
    """Measure one dataset, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a prepared dataset")
    parser.add_argument("--preset", default="fast", help="(default: fast)")
    parser.add_argument(
        "--seeds", type=seeds, default=[0, 1, 2], help="one run for each seed (default: 0,1,2)"
    )
    parser.add_argument(
        "--parent", type=float, default=0.9, help="share of the images that the parent learned (default: 0.9)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    growing = measure(options.dataset, options.preset, options.parent, options.seeds)
    file, document = results_page.keep_last(options.output, "finetuning", growing)
    progress.say(f"wrote {file} and {write(options.output)}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
