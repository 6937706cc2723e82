"""Measure the linear probe beside scikit-learn's logistic regression on the same features.

    python benchmarks/probe.py --dataset clothing --network timm/tf_efficientnet_lite0.in1k --weights lite0.pth

All images of the dataset are embedded once by the network as it is. Then, for each of several folds and in turns: the
head of `--preset probe`, and a scikit-learn pipeline (StandardScaler, LogisticRegression) with the same strengths. Both
choose the strength on a tenth of the images outside the fold, and are measured on the fold. The results go to
OUTPUT/probe/probe-DATASET.json, and the page OUTPUT/probe.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from harness import results_page
from harness.results_page import Document, Row, mean_and_spread, ratio, share, table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from raycls import command, progress
from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.models.forward import compute_dtype, forward
from raycls.models.weights import load_weights
from raycls.training.linear_head import EMBED_PIXELS, STRENGTHS, fitted
from raycls.training.recipes import configured
from raycls.training.setup import card_for, untrained

RESULTS = Path(__file__).parent / "results"
OURS, PEER = "raycls", "scikit-learn"
HEAD = """# Linear probe

Made by `python benchmarks/probe.py`. The features of a network with public weights are the same for both. Measured are
the accuracy on the fold that took no part, and the seconds to find the head, with the choice of its regularisation.
raycls starts each search from the last one's weights and stops after two strengths in a row that are worse;
scikit-learn's pipeline fits all of them anew.
"""


def features(dataset: PackedDataset, network_name: str, weights: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the embeddings (float32 N×D) and labels (int64 N) of all splits, and the images/s."""
    settings = configured(dataset.info, "probe", network=network_name, pretrained=True)
    config = override(settings, ["training.batch_size=2"])
    network = untrained(config, dataset).eval()
    load_weights(network, weights)
    card, dtype = card_for(config, dataset.info), compute_dtype("auto", torch.device("cpu"))
    found, labels = [], []
    size = max(1, EMBED_PIXELS // dataset.info.image_size**2)
    began = time.perf_counter()
    with progress.bar("embedding", sum(dataset.info.counts.values())) as bar:
        for split in dataset.info.counts:
            images = dataset.images(split)
            for start in range(0, len(images), size):
                part = torch.from_numpy(np.array(images[start : start + size]))
                found.append(forward(network, part, card, dtype)[1].numpy())
                bar.advance(len(part))
            labels.append(np.array(dataset.labels(split)))
    every = np.concatenate(found)
    return every, np.concatenate(labels).astype(np.int64), len(every) / (time.perf_counter() - began)


def folds(
    embedded: np.ndarray, labels: np.ndarray, count: int, repeats: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each fold of each repeat: the repeat, and the indices that train, that choose, and that measure."""
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(labels))
        for held in np.array_split(order, count):
            rest = np.setdiff1d(order, held, assume_unique=True)
            rest = np.random.default_rng(repeat).permutation(rest)
            chooses = len(rest) // 10
            yield repeat, rest[chooses:], rest[:chooses], held


def ours(embedded: np.ndarray, labels: np.ndarray, parts: list[np.ndarray]) -> tuple[float, float]:
    """Return the accuracy on the last part and the seconds."""
    train, choose, held = parts
    images, answers = torch.from_numpy(embedded), torch.from_numpy(labels)
    began = time.perf_counter()
    weight, bias = fitted(
        images[train], answers[train], images[choose], answers[choose], int(labels.max()) + 1
    )
    seconds = time.perf_counter() - began
    said = (images[held] @ weight.T + bias).argmax(1)
    return float((said == answers[held]).double().mean()), seconds


def peer(embedded: np.ndarray, labels: np.ndarray, parts: list[np.ndarray]) -> tuple[float, float]:
    """Return the same of scikit-learn. Its C is 1 / (images × strength)."""
    train, choose, held = parts
    began = time.perf_counter()
    best, lowest = None, float("inf")
    for strength in STRENGTHS:
        found: Pipeline = make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / (len(train) * strength), max_iter=200)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.fit(embedded[train], labels[train])
        loss = log_loss(labels[choose], found.predict_proba(embedded[choose]), labels=found.classes_)
        if loss < lowest:
            best, lowest = found, loss
    seconds = time.perf_counter() - began
    assert best is not None
    return float(best.score(embedded[held], labels[held])), seconds


def measure(
    dataset: PackedDataset, network: str, weights: str, count: int, repeats: int
) -> Iterator[Document]:
    """Yield the dataset's document after each fold."""
    embedded, labels, rate = features(dataset, network, weights)
    rows: list[Row] = []
    arguments = {
        "dataset": dataset.info.name,
        "images": len(labels),
        "size": dataset.info.image_size,
        "classes": len(dataset.info.classes),
        "network": network,
        "folds": count,
        "repeats": repeats,
        "images_per_s": rate,
    }
    for number, (repeat, *parts) in enumerate(folds(embedded, labels, count, repeats)):
        arms = [(OURS, ours), (PEER, peer)]
        for name, arm in arms if number % 2 else arms[::-1]:
            accuracy, seconds = arm(embedded, labels, parts)
            rows.append(
                {"fold": number, "repeat": repeat, "arm": name, "accuracy": accuracy, "seconds": seconds}
            )
        yield results_page.document(f"probe-{dataset.info.name}", arguments, rows)


def _section(documents: dict[str, Document]) -> str:
    lines = []
    for document in documents.values():
        given, rows = document["arguments"], document["rows"]
        by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in (OURS, PEER)}
        pairs = list(zip(by_arm[OURS], by_arm[PEER], strict=True))
        differences = [100 * (own["accuracy"] - other["accuracy"]) for own, other in pairs]
        lines.append(
            (
                f"{given['dataset']}: {given['images']:,} images of {given['size']} pixels, {given['classes']} classes",
                given["network"],
                *(share(*mean_and_spread(row["accuracy"] for row in by_arm[arm])) for arm in (OURS, PEER)),
                f"{statistics.mean(differences):+.2f} points ({min(differences):+.1f} to {max(differences):+.1f})",
                ratio([own["seconds"] / other["seconds"] for own, other in pairs]),
                f"{statistics.median(row['seconds'] for row in by_arm[OURS]):.2f} s",
                f"{given['images_per_s']:.0f}/s",
            )
        )
    header = (
        "dataset",
        "network",
        "accuracy",
        "scikit-learn's",
        "difference, by fold",
        "time, × scikit-learn's",
        "time of a head",
        "embedded",
    )
    return table(header, lines)


def main(arguments: list[str]) -> None:
    """Measure, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a prepared dataset")
    parser.add_argument("--network", default="timm/tf_efficientnet_lite0.in1k")
    parser.add_argument("--weights", default="pretrained", help="as of `raycls train`")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    dataset = open_dataset(options.dataset)
    growing = measure(dataset, options.network, options.weights, options.folds, options.repeats)
    file, document = results_page.keep_last(options.output, "probe", growing)
    page = results_page.write(options.output, "probe", HEAD, {"probe": _section})
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
