"""Measure whether confidences can be believed: the calibration error on `test`, before and after the temperature.

    python benchmarks/calibration.py --dataset digits --preset quick --seeds 0,1,2,3,4
    python benchmarks/calibration.py --dataset clothing --network timm/efficientnet_lite0 --weights lite0.pth
    python benchmarks/calibration.py --checkpoints DIRECTORY DIRECTORY      # models that are there already
    python benchmarks/calibration.py --simulate

With a preset, each seed trains one model. With a network, its features are fixed, and each of several folds has a
linear head of its own: together they measure every image once, which is many times the split test. Each row also has
the error with a scale and an offset for each class in place of one temperature, and what a threshold of `raycls
reject`, found on val, does on test. --simulate draws answers of a model whose true error is known, and compares
estimators. The results go to OUTPUT/calibration/, and the page OUTPUT/calibration.md is rebuilt. The last line of
stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import results_page
from harness.calibration_page import HEAD, SECTIONS
from harness.calibration_simulated import simulated
from harness.results_page import Document, Row, seeds
from probe import features, folds
from torch import Tensor

from raycls import command, metrics, progress
from raycls.config import Config
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_by_fingerprint, open_dataset
from raycls.engines.examples import match
from raycls.engines.predictor import Predictor
from raycls.errors import UsageError
from raycls.models.card import load_card, sha256
from raycls.training import loop
from raycls.training.calibration import temperature
from raycls.training.evaluation import score
from raycls.training.probe import fitted
from raycls.training.recipes import configured
from raycls.training.rejection import lowest_confidence

RESULTS = Path(__file__).parent / "results"
PRECISION = 0.95  # of the threshold
STEPS = 100  # of L-BFGS, for the scales and offsets by class


Part = tuple[Tensor, Tensor]  # logits at temperature 1 (float32 N×C), and labels (int64 N)


def answers(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each answer (float64 N) and whether it is right (bool N)."""
    confidence, predicted = logits.softmax(1).max(1)
    return confidence.double().numpy(), (predicted == labels).numpy()


def plain_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the calibration error of Guo et al., in which what chance adds is an error too."""
    parts = [inside for _, _, inside in metrics.reliability(confidence)]
    gaps = [abs(right[inside].mean() - confidence[inside].mean()) * inside.sum() for inside in parts]
    return float(sum(gaps) / len(right))


def by_class(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return a scale and an offset for each class with the lowest log loss (vector scaling, Guo et al. 2017): C."""
    scale = torch.ones(logits.shape[1], requires_grad=True)
    offset = torch.zeros(logits.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([scale, offset], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        found = F.cross_entropy(logits * scale + offset, labels)
        found.backward()
        return found

    search.step(loss)
    return scale.detach(), offset.detach()


def row_of(parts: Sequence[tuple[Part, Part]]) -> Row:
    """Return the figures of the images that test, over all parts. Each part is what fits, and what tests."""
    tested: dict[str, list[Tensor]] = {"before": [], "after": [], "by_class": []}
    calibrated, divisors = [], []
    for (fits, known), (logits, _) in parts:
        divisors.append(temperature(fits, known))
        scale, offset = by_class(fits, known)
        calibrated.append(fits / divisors[-1])
        for arm, each in (
            ("before", logits),
            ("after", logits / divisors[-1]),
            ("by_class", logits * scale + offset),
        ):
            tested[arm].append(each)
    fit_labels, labels = (torch.cat([part[i][1] for part in parts]) for i in (0, 1))
    found: Row = {
        "fit_images": len(fit_labels) // len(parts),
        "test_images": len(labels),
        "temperature": float(np.mean(divisors)),
    }
    for arm, scaled in tested.items():
        together = torch.cat(scaled)
        said = answers(together, labels)
        found[f"accuracy_{arm}"] = float(said[1].mean())
        found[f"log_loss_{arm}"] = float(F.cross_entropy(together, labels))
        found[f"error_{arm}"] = metrics.calibration_error(*said)
        found[f"plain_error_{arm}"] = plain_error(*said)
    confidence, right = answers(torch.cat(tested["after"]), labels)
    found["low"], found["high"] = metrics.calibration_interval(confidence, right)
    limit = lowest_confidence(*answers(torch.cat(calibrated), fit_labels), PRECISION)
    if limit is not None:
        kept = confidence >= limit
        found |= {"threshold": limit, "answered": int(kept.sum()), "right": int(right[kept].sum())}
    return found


def of_checkpoint(directory: Path, dataset: PackedDataset) -> Row:
    """Return the figures of a checkpoint on its dataset."""
    raw = Predictor.load(directory).at_temperature(1.0)
    scores = [score(raw, match(raw.card, dataset, split)) for split in ("val", "test")]
    fits, tests = ((each.logits, each.labels) for each in scores)
    return row_of([(fits, tests)])


def trained(dataset: PackedDataset, preset: str, numbers: Sequence[int]) -> Iterator[Document]:
    """Yield the document after each seed's model."""
    rows: list[Row] = []
    for seed in numbers:
        with tempfile.TemporaryDirectory() as folder:
            _train(
                configured(dataset.info, preset, settings=[f"training.seed={seed}"]), dataset, Path(folder)
            )
            rows.append({"model": f"seed {seed}", **of_checkpoint(Path(folder), dataset)})
        yield _document(dataset, preset, rows)


def _train(config: Config, dataset: PackedDataset, directory: Path) -> None:
    """Train, and keep the best epoch in the directory."""
    best, by = -math.inf, config.training.chosen_by

    def on_epoch(found: dict[str, float], snapshot: loop.Snapshot) -> None:
        nonlocal best
        if metrics.oriented(by, found[by]) >= best:
            best = metrics.oriented(by, found[by])
            snapshot.save(directory)

    loop.fit(config, dataset, on_epoch=on_epoch)


def existing(directories: Sequence[Path]) -> Iterator[Document]:
    """Yield the document after each checkpoint. All are of one dataset."""
    rows: list[Row] = []
    for directory in directories:
        card = load_card(directory)
        dataset = open_by_fingerprint(*card.learned_from)
        told = (
            f"{card.network}, {card.config['training']['epochs']} epochs, checkpoint {sha256(directory)[:8]}"
        )
        rows.append({"model": told, **of_checkpoint(directory, dataset)})
        yield _document(dataset, "existing", rows)


def probed(
    dataset: PackedDataset, network: str, weights: str, count: int, repeats: int
) -> Iterator[Document]:
    """Yield the document after each repeat: each fold is answered by a head of the others, with its own temperature."""
    embedded, labels, _ = features(dataset, network, weights)
    images, known = torch.from_numpy(embedded), torch.from_numpy(labels)
    rows: list[Row] = []
    parts: list[tuple[Part, Part]] = []
    for repeat, train, choose, held in folds(embedded, labels, count, repeats):
        weight, bias = fitted(
            images[train], known[train], images[choose], known[choose], int(labels.max()) + 1
        )
        logits = images @ weight.T + bias
        parts.append(((logits[choose], known[choose]), (logits[held], known[held])))
        if len(parts) == count:
            rows.append({"model": f"{count} heads, order {repeat}", **row_of(parts)})
            parts.clear()
            yield _document(dataset, "probe", rows)


def _document(dataset: PackedDataset, how: str, rows: list[Row]) -> Document:
    arguments = {"dataset": dataset.info.reference, "size": dataset.info.image_size, "how": how}
    name = f"models-{dataset.info.name}-{how}"
    return results_page.document(name, arguments | {"precision": PRECISION}, rows)


def main(arguments: list[str]) -> None:
    """Measure, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", help="a prepared dataset")
    parser.add_argument("--preset", default="quick", help="(default: quick)")
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2], help="one model each (default: 0,1,2)")
    parser.add_argument("--network", help="whose features a probe takes, like timm/efficientnet_lite0")
    parser.add_argument("--weights", default="pretrained", help="as of `raycls train`, with --network")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoints", type=Path, nargs="+", help="directories of models of one dataset")
    parser.add_argument("--simulate", action="store_true", help="compare estimators where the error is known")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    growing: Iterator[Document]
    if options.simulate:
        growing = simulated()
    elif options.checkpoints:
        growing = existing(options.checkpoints)
    elif not options.dataset:
        raise UsageError("name what to measure: --dataset, --checkpoints or --simulate")
    elif options.network:
        dataset = open_dataset(options.dataset)
        growing = probed(dataset, options.network, options.weights, options.folds, options.repeats)
    else:
        growing = trained(open_dataset(options.dataset), options.preset, options.seeds)
    file, document = results_page.keep_last(options.output, "calibration", growing)
    progress.say(f"wrote {file} and {results_page.write(options.output, 'calibration', HEAD, SECTIONS)}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
