"""Measure what more can be had from the same pictures: folds and their ensemble, a refit, and a soup.

    python benchmarks/more_data.py --dataset cifar10 --preset fast --folds 5 --seeds 0,1,2

For each seed: one model of the split train, whose best epoch val chooses; the same settings on train and val together
(`raycls train --refit`); the ensemble of the models of all folds (`raycls train --folds`); and, of several models that
were fine-tuned from the first one with other seeds and rates, the best one on val and the greedy soup (`raycls soup`).
Each row has accuracy, log loss and calibration error on the splits test and gate together, which no model has learned,
and the milliseconds for one image. The results go to OUTPUT/more_data/DATASET-PRESET.json, and the page
OUTPUT/more_data.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from finetuning import evaluated
from harness import results_page
from harness.results_page import Document, Row, mean_and_spread, seeds, share, table

from raycls import command, progress
from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.subsets import Subset, opened
from raycls.data.versions import open_dataset
from raycls.engines.build import best_device
from raycls.engines.choice import choose
from raycls.engines.examples import match
from raycls.engines.predictor import Predictor
from raycls.metrics import rank
from raycls.models import checkpoint
from raycls.models.card import load_card, update_card
from raycls.models.ensemble import combined
from raycls.registry.policy import PromotionPolicy
from raycls.training import loop
from raycls.training.calibration import calibrated, temperature
from raycls.training.evaluation import score
from raycls.training.recipes import configured
from raycls.training.refit import refitted
from raycls.training.soups import Kitchen, Member

RESULTS = Path(__file__).parent / "results"
ONE, REFIT, FOLDS, TUNED, SOUP = (
    "one model",
    "refit",
    "fold ensemble",
    "best fine-tuned",
    "soup of fine-tuned",
)
AGAINST = {REFIT: ONE, FOLDS: ONE, TUNED: ONE, SOUP: TUNED}
RATES = (0.5, 1.0, 2.0, 4.0)  # of fine-tuning, as multiples of the recipe's
HEAD = """# More from the same pictures

Made by `python benchmarks/more_data.py`. *One model* learns from train, and val chooses its best epoch. *Refit* has the
same settings and learns from train and val. *Fold ensemble* is the mean of one model for each fold of train and val.
The last two rows choose among models that were fine-tuned from *one model*, or mix them.

Accuracy, log loss and calibration error are those of the splits test and gate together, which no model has learned, as
mean ± standard deviation over the seeds. The difference is the mean over the seeds, with the range.
"""


def measure(name: str, preset: str, folds: int, numbers: list[int]) -> Iterator[Document]:
    """Yield the dataset's document after each row."""
    dataset = open_dataset(name)
    arguments = {"dataset": dataset.info.reference, "preset": preset, "folds": folds}
    rows: list[Row] = []
    for seed in numbers:
        with tempfile.TemporaryDirectory() as folder:
            for arm, row in arms(dataset, preset, folds, seed, Path(folder)):
                rows.append({"seed": seed, "arm": arm, **row})
                progress.say(f"{name}, seed {seed}: {arm} {row['accuracy']:.4f}")
                yield results_page.document(f"{dataset.info.name}-{preset}", arguments, rows)


def arms(
    dataset: PackedDataset, preset: str, folds: int, seed: int, folder: Path
) -> Iterator[tuple[str, Row]]:
    """Train and measure each arm."""
    config = configured(dataset.info, preset, settings=[f"training.seed={seed}"])
    one = folder / "one"
    seconds = train(config, dataset, one)
    fitted = calibrated(Predictor.load(one), dataset)[0].card.temperature
    update_card(one, metrics={}, temperature=fitted)
    yield ONE, {"train_seconds": seconds, **figures(one, dataset)}

    refit = folder / "refit"
    again = refitted(config, int(load_card(one).metrics["epoch"]))
    with opened(dataset, Subset()) as part:
        seconds = train(again, part, refit)
    update_card(refit, metrics={}, temperature=fitted, learned_splits=Subset().splits)
    yield REFIT, {"train_seconds": seconds, **figures(refit, dataset)}

    seconds, told = 0.0, []
    for fold in range(1, folds + 1):
        with opened(dataset, Subset(folds=folds, fold=fold)) as part:
            seconds += train(config, part, folder / f"fold-{fold}")
            member = Predictor.load(folder / f"fold-{fold}")
            told.append(score(member, match(member.card, part, "val")))
    network, card = combined([checkpoint.load(folder / f"fold-{fold}") for fold in range(1, folds + 1)])
    fitted = temperature(torch.cat([each.logits for each in told]), torch.cat([each.labels for each in told]))
    changed: dict[str, Any] = {"temperature": fitted, "learned_splits": Subset().splits}
    checkpoint.save(folder / "folds", network, card.model_copy(update=changed))
    yield FOLDS, {"train_seconds": seconds, **figures(folder / "folds", dataset)}

    yield from _soup(dataset, preset, seed, one, folder)


def _soup(
    dataset: PackedDataset, preset: str, seed: int, one: Path, folder: Path
) -> Iterator[tuple[str, Row]]:
    init, found, seconds = load_card(one), [], 0.0
    kitchen = Kitchen(dataset, init)
    for number, rate in enumerate(RATES):
        own = configured(dataset.info, preset, settings=[f"training.seed={seed + 100 + number}"], init=init)
        tuned = folder / f"tuned-{number}"
        seconds += train(override(own, [f"optim.lr={rate * own.optim.lr}"]), dataset, tuned, init=one)
        network, _ = checkpoint.load(tuned)
        found.append(Member(f"{rate:g} of the rate", network, kitchen.accuracy(network)))
    mixture, _, chosen = kitchen.greedy(found)
    for arm, best, count in ((TUNED, chosen[0].network, 1), (SOUP, mixture, len(chosen))):
        directory = folder / arm.replace(" ", "-")
        checkpoint.save(directory, best, init.model_copy(update={"metrics": {}, "temperature": 1.0}))
        fitted = calibrated(Predictor.load(directory), dataset)[0].card.temperature
        update_card(directory, metrics={}, temperature=fitted)
        yield arm, {"train_seconds": seconds, "members": count, **figures(directory, dataset)}


def train(config: Config, dataset: PackedDataset, directory: Path, init: Path | None = None) -> float:
    """Train, keep the best epoch in `directory`, and return the seconds."""
    kept: dict[str, float] = {}
    seconds = 0.0

    def on_epoch(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
        nonlocal kept, seconds
        seconds, metric = metrics["train_seconds"], config.training.chosen_by
        if not kept or rank(metric, metrics) >= rank(metric, kept):
            kept = metrics
            snapshot.save(directory)

    loop.fit(config, dataset, on_epoch=on_epoch, init=init, device=best_device())
    return seconds


def figures(directory: Path, dataset: PackedDataset) -> Row:
    """Return what is measured of a checkpoint: on test and gate, and the time of one image by the fastest engine."""
    found = evaluated(Predictor.load(directory), dataset)
    chosen = choose(
        directory, match(load_card(directory), dataset, "val"), PromotionPolicy().max_accuracy_loss
    )
    one_ms = {timing.engine: timing.one_ms for timing in chosen.timings}[chosen.engine]
    return {
        "accuracy": found.accuracy,
        "log_loss": found.loss,
        "calibration_error": found.calibration_error,
        "images": int(found.confusion.sum()),
        "engine": chosen.engine,
        "one_ms": one_ms,
    }


def section(document: Document) -> str:
    """Return one dataset's part of the page."""
    rows, arguments = document["rows"], document["arguments"]
    accuracy = {(row["seed"], row["arm"]): row["accuracy"] for row in rows}
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        gains = [
            100 * (row["accuracy"] - accuracy[row["seed"], AGAINST[arm]]) for row in mine if arm in AGAINST
        ]
        told = (
            f"{sum(gains) / len(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f}) over {AGAINST[arm]}"
            if gains
            else ""
        )
        means = {
            key: mean_and_spread(row[key] for row in mine)[0]
            for key in ("log_loss", "calibration_error", "train_seconds", "one_ms")
        }
        lines.append(
            (
                arm,
                share(*mean_and_spread(row["accuracy"] for row in mine)),
                told,
                f"{means['log_loss']:.3f}",
                f"{means['calibration_error']:.3f}",
                f"{means['train_seconds']:.0f} s",
                f"{means['one_ms']:.2f} ms",
                len(mine),
            )
        )
    header = (
        "model",
        "accuracy",
        "difference, points",
        "log loss",
        "calibration error",
        "training",
        "one image",
        "n",
    )
    mixed = [str(row["members"]) for row in rows if row["arm"] == SOUP]
    facts = (
        f"{arguments['folds']} folds, {rows[0]['images']} images measured, {document['date']} (UTC). Models in the "
        f"soups, of {len(RATES)}: {', '.join(mixed) or 'none yet'}."
    )
    title = f"{arguments['dataset']}, preset `{arguments['preset']}`"
    return f"## {title}\n\n{facts}\n\n{table(header, lines)}"


def write(results: Path) -> Path:
    """Rebuild the page and return its path."""
    names = sorted(file.stem for file in (results / "more_data").glob("*.json"))
    sections = {
        name.partition("-")[0]: lambda found: "\n".join(map(section, found.values())) for name in names
    }
    return results_page.write(results, "more_data", HEAD, sections)


def main(arguments: list[str]) -> None:
    """Measure one dataset, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a prepared dataset")
    parser.add_argument("--preset", default="fast", help="(default: fast)")
    parser.add_argument("--folds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2], help="(default: 0,1,2)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    growing = measure(options.dataset, options.preset, options.folds, options.seeds)
    file, document = results_page.keep_last(options.output, "more_data", growing)
    progress.say(f"wrote {file} and {write(options.output)}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
