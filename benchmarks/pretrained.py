"""Measure fine-tuning from public weights beside a plain loop as tutorials have it, and beside the linear probe.

    python benchmarks/pretrained.py --dataset clothing --network timm/tf_efficientnet_lite0.in1k --weights lite0.pth

All images of the dataset are dealt out to folds. For each fold and in turns: each of the presets, and the plain loop of
benchmarks/peers/plain_finetuning.py. Each arm learns from the images outside the fold, of which a tenth chooses the
epoch, and is measured on the fold. The plain loop learns from that tenth too, and its last epoch counts. Times are
those of the training loops, without the start of Ray. The results go to OUTPUT/pretrained/pretrained-DATASET.json, and
the page OUTPUT/pretrained.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from harness import results_page
from harness.folds import Fold, folds
from harness.results_page import Document, Row, mean_and_spread, ratio, share, table
from peers.plain_finetuning import finetune

from raycls import command, machine, progress
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.metrics import rank
from raycls.models.timm_networks import PREFIX
from raycls.training import loop
from raycls.training.evaluation import evaluate
from raycls.training.recipes import configured

RESULTS = Path(__file__).parent / "results"
PLAIN = "plain loop"
HEAD = """# Fine-tuning from public weights

Made by `python benchmarks/pretrained.py`. A row is what `raycls train --network NETWORK --weights FILE --preset PRESET`
does in its training loop, on all cores, without the start of Ray's processes. The *plain loop* trains the whole network
as tutorials do (benchmarks/peers/plain_finetuning.py). Accuracy is that on the fold that took no part, mean ± standard
deviation over the folds. Differences (means) and times (medians) are those to the plain loop on the same fold, with the
range.
"""


def measure(
    name: str,
    network: str,
    weights: Path,
    *,
    presets: list[str],
    settings: list[str],
    count: int,
    repeats: int,
    epochs: int,
    rate: float,
) -> Iterator[Document]:
    """Yield the dataset's document after each arm. epochs, rate: of the plain loop."""
    dataset = open_dataset(name)
    arguments = {
        "dataset": dataset.info.reference,
        "images": sum(dataset.info.counts.values()),
        "size": dataset.info.image_size,
        "classes": len(dataset.info.classes),
        "network": network,
        "settings": settings,
        "folds": count,
        "repeats": repeats,
        "plain_epochs": epochs,
        "plain_rate": rate,
    }
    rows: list[Row] = []
    for fold in folds(dataset, count, repeats):
        arms = [PLAIN, *presets]
        # In turns: another arm begins in each fold.
        for arm in arms[fold.number % len(arms) :] + arms[: fold.number % len(arms)]:
            progress.say(f"{name}, fold {fold.number + 1} of {count * repeats}: {arm}")
            if arm == PLAIN:
                with fold.dataset(validation=0) as part:
                    run = finetune(
                        part,
                        network.removeprefix(PREFIX),
                        weights,
                        epochs=epochs,
                        threads=machine.cores(),
                        rate=rate,
                        seed=fold.number,
                    )
                row = {"accuracy": run.test_accuracy[-1], "seconds": sum(run.epoch_seconds), "epochs": epochs}
            else:
                row = _trained(fold, arm, network, weights, settings)
            rows.append({"fold": fold.number, "arm": arm, **row})
            yield results_page.document(f"pretrained-{dataset.info.name}", arguments, rows)


def _trained(fold: Fold, preset: str, network: str, weights: Path, settings: list[str]) -> Row:
    """Train a fold as `raycls train` does, and return the figures of the kept epoch on the images of the fold."""
    torch.set_num_threads(machine.cores())
    with fold.dataset(validation=0.1) as part, tempfile.TemporaryDirectory() as folder:
        seed = f"training.seed={fold.number}"
        config = configured(part.info, preset, network=network, pretrained=True, settings=[*settings, seed])
        best: dict[str, float] = {}
        last: dict[str, float] = {}
        for last, snapshot in loop.start(config, part, weights=str(weights)).epochs():
            if not best or rank(config.training.chosen_by, last) >= rank(config.training.chosen_by, best):
                best = last
                snapshot.save(Path(folder))
        found = evaluate(Predictor.load(Path(folder)), part, "test")
    return {
        "accuracy": found.accuracy,
        "seconds": last["train_seconds"],
        "epochs": config.training.epochs,
        "best_epoch": int(best["epoch"]),
    }


def section(documents: dict[str, Document]) -> str:
    """Return the part of the page with one table for each dataset."""
    parts = []
    for document in documents.values():
        given, rows = document["arguments"], document["rows"]
        plain = {row["fold"]: row for row in rows if row["arm"] == PLAIN}
        lines = []
        for arm in dict.fromkeys(row["arm"] for row in sorted(rows, key=lambda each: each["seconds"])):
            mine = [row for row in rows if row["arm"] == arm and row["fold"] in plain]
            gains = [100 * (row["accuracy"] - plain[row["fold"]]["accuracy"]) for row in mine]
            times = [row["seconds"] / plain[row["fold"]]["seconds"] for row in mine]
            lines.append(
                (
                    arm,
                    mine[0]["epochs"],
                    share(*mean_and_spread(row["accuracy"] for row in mine)),
                    ""
                    if arm == PLAIN
                    else f"{statistics.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})",
                    f"{statistics.median(row['seconds'] for row in mine):.0f} s",
                    "" if arm == PLAIN else ratio(times),
                    len(mine),
                )
            )
        header = ("preset", "epochs", "accuracy", "difference, points", "time", "× plain loop's", "n")
        facts = (
            f"{given['images']:,} images of {given['size']} pixels in {given['classes']} classes, "
            f"`{given['network']}`, {given['folds']} folds, {given['repeats']} times. "
            f"Plain loop: Adam at {given['plain_rate']:g}. {document['date']} (UTC)."
        )
        parts.append(f"## {given['dataset']}\n\n{facts}\n\n{table(header, lines)}")
    return "\n".join(parts)


def main(arguments: list[str]) -> None:
    """Measure, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a prepared dataset")
    parser.add_argument("--network", default="timm/tf_efficientnet_lite0.in1k", help="one of timm's")
    parser.add_argument("--weights", type=Path, required=True, help="a file with timm's names")
    parser.add_argument("--presets", default="probe,fast,strong", help="(default: probe,fast,strong)")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for every preset")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6, help="of the plain loop (default: 6)")
    parser.add_argument("--rate", type=float, default=3e-4, help="of the plain loop (default: 0.0003)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    growing = measure(
        options.dataset,
        options.network,
        options.weights,
        presets=[each for each in options.presets.split(",") if each],
        settings=options.set,
        count=options.folds,
        repeats=options.repeats,
        epochs=options.epochs,
        rate=options.rate,
    )
    file, document = results_page.keep_last(options.output, "pretrained", growing)
    page = results_page.write(options.output, "pretrained", HEAD, {"pretrained": section})
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
