"""The answers of two versions to the same pictures, and the time that each takes for one.

    found = answers(registry.resolve("pets/7"), registry.champion("pets"))
    found.labels, found.champion, found.challenger

Both are computed now, by the engines that would serve them. The pictures are those of the split `gate` of the newest
version of the champion's dataset on this machine that both can be measured on. Nothing but promotion reads that split.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycls import progress, registry
from raycls.config import Engine
from raycls.data.layout import versions_of
from raycls.data.manifest import is_upload, read_rows
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_by_fingerprint, open_dataset
from raycls.engines import build as engines
from raycls.engines.examples import Examples, match
from raycls.engines.predictor import Predictor
from raycls.errors import (
    CheckpointError,
    DataError,
    EngineError,
    RayclsError,
    UnknownDatasetError,
    UsageError,
)
from raycls.models.card import ModelCard, load_card
from raycls.registry.model_version import ModelVersion
from raycls.registry.policy import PromotionPolicy

ROUNDS, WARM_UP = 30, 5  # timed and untimed passes of one image by each, in turns
PAUSE_S = 0.004  # before each pass: passes without a pause are faster than those of a replica
THREADS = 1  # CPU threads of a forward pass, like the default of `threads` in serve_config.yaml


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of both to N pictures, over the C classes that both and the dataset know.

    champion, challenger: float N×C probabilities over these classes. labels: int64 N. uploaded: bool N. rows: int64 N,
    the pictures' indices in the split. train_images: the training images of each class. engines, latency_ms: of the
    champion and of the challenger. remarks: what a reader of the figures must know.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    labels: np.ndarray
    rows: np.ndarray
    uploaded: np.ndarray
    champion: np.ndarray
    challenger: np.ndarray
    train_images: tuple[int, ...]
    engines: tuple[Engine, Engine]
    latency_ms: tuple[float, float]
    remarks: tuple[str, ...]


def answers(challenger: ModelVersion, champion: ModelVersion) -> Answers:
    """Return the answers of both.

    Raises UnknownDatasetError if no version of the champion's dataset is here, UsageError if the two cannot be measured
    on the same pictures, or one has learned them, and CheckpointError or RegistryError for a damaged checkpoint.
    """
    import torch

    directories = [registry.checkpoint(version) for version in (champion, challenger)]
    cards = [load_card(directory) for directory in directories]
    dataset, own, other = _common(*cards)
    for version, card in zip((champion, challenger), cards, strict=True):
        if card.dataset == dataset.info.name and dataset.gate in card.learned_splits:
            raise UsageError(
                f"{version.reference} learned the pictures of {dataset.gate}, and {dataset.info.reference} has no "
                "split gate, which would be unseen: `raycls data prepare` makes a version with one"
            )
    remarks = [*_of_split(dataset), *_of_classes((champion, challenger), (own, other))]
    classes = tuple(name for name in own.classes if name in other.classes)
    shared = np.intersect1d(own.rows, other.rows)
    if cards[1].dataset != cards[0].dataset:
        shared, told = _not_learned(dataset, shared, cards[1])
        remarks += told
    if len(classes) < 2 or not len(shared):
        raise UsageError(
            f"{champion.reference} and {challenger.reference} share {len(classes)} classes and {len(shared)} pictures "
            f"of {dataset.info.reference}/{dataset.gate}: nothing can be compared"
        )
    own, other = (examples.only(np.isin(examples.rows, shared)) for examples in (own, other))
    threads = torch.get_num_threads()
    try:
        predictors = [
            _load(version, directory, examples)
            for version, directory, examples in zip(
                (champion, challenger), directories, (own, other), strict=True
            )
        ]
        with progress.bar(f"comparing on {len(own):,} pictures of {dataset.info.reference}/{own.split}"):
            both = [_answers(p, e, classes) for p, e in zip(predictors, (own, other), strict=True)]
            latencies = _in_turns(predictors, (own, other))
    finally:
        torch.set_num_threads(threads)
    position = np.array([classes.index(name) if name in classes else -1 for name in own.classes])
    counts = dict(zip(dataset.info.classes, dataset.info.class_counts.get("train", ()), strict=False))
    return Answers(
        dataset=dataset.info.reference,
        split=own.split,
        classes=classes,
        labels=position[own.labels],
        rows=own.rows,
        uploaded=_uploaded(dataset, own),
        champion=both[0],
        challenger=both[1],
        train_images=tuple(counts.get(name, 0) for name in classes),
        engines=(predictors[0].engine, predictors[1].engine),
        latency_ms=latencies,
        remarks=tuple(remarks),
    )


def _common(champion: ModelCard, challenger: ModelCard) -> tuple[PackedDataset, Examples, Examples]:
    """Return the newest version of the champion's dataset that both match, and the pictures for each."""
    if not versions_of(champion.dataset):
        open_dataset(champion.dataset)  # pulls it, or says what there is
    reason: RayclsError | None = None
    for number in sorted(versions_of(champion.dataset), reverse=True):
        try:
            dataset = open_dataset(f"{champion.dataset}@{number}")
            own, other = (match(card, dataset, dataset.gate) for card in (champion, challenger))
        except (DataError, UsageError) as error:
            reason = reason or error
        else:
            return dataset, own, other
    assert reason is not None
    raise reason


def _of_split(dataset: PackedDataset) -> list[str]:
    if dataset.gate == "gate":
        return []
    return [
        f"{dataset.info.reference} has no split gate: {dataset.gate} is used, on which the best epochs were chosen, so "
        "the figures are optimistic"
    ]


def _of_classes(versions: Sequence[ModelVersion], examples: Sequence[Examples]) -> list[str]:
    known = [set(each.classes) | set(each.model_only) for each in examples]
    remarks = [
        f"compared on the common classes; {version.reference} alone knows {', '.join(sorted(more)[:10])}"
        for version, more in zip(versions, (known[0] - known[1], known[1] - known[0]), strict=True)
        if more
    ]
    unknown = sorted(set(examples[0].dataset_only) & set(examples[1].dataset_only))
    return remarks + ([f"neither knows {', '.join(unknown[:10])} of the dataset"] if unknown else [])


def _not_learned(dataset: PackedDataset, rows: np.ndarray, card: ModelCard) -> tuple[np.ndarray, list[str]]:
    """Return the rows of the split without pictures that a model of another dataset has learned, and remarks."""
    try:
        learned = read_rows(open_by_fingerprint(*card.learned_from))
    except (UnknownDatasetError, DataError):
        learned = None
    table = _rows_of(dataset)
    if not learned or not table:
        return rows, [f"whether the challenger learned pictures of {dataset.info.reference} is not known"]
    digests = learned.filter(pc.is_in(learned["split"], pa.array(["train", "val"])))["sha256"]
    seen = pc.is_in(table["sha256"], digests.combine_chunks()).to_numpy(zero_copy_only=False)[rows]
    return rows[~seen], [
        f"{seen.sum():,} pictures that the challenger learned are left out"
    ] if seen.any() else []


def _rows_of(dataset: PackedDataset) -> pa.Table:
    """Return the rows of the split that is compared on, in the arrays' order. A version without rows has none."""
    table = read_rows(dataset)
    return table.filter(pc.equal(table["split"], dataset.gate))


def _uploaded(dataset: PackedDataset, examples: Examples) -> np.ndarray:
    """Return bool N: whether each picture was uploaded."""
    sources = _rows_of(dataset)["source"].to_pylist()
    if not sources:
        return np.zeros(len(examples), dtype=bool)
    return np.array([is_upload(sources[row]) for row in examples.rows])


def _load(version: ModelVersion, directory: Path, examples: Examples) -> Predictor:
    """Return the version's predictor, with the engine that would serve it on this machine."""
    device = engines.best_device()
    if registry.ENGINE in version.tags:
        engine = registry.engine_to_serve(version, device=device)
    else:
        from raycls.engines.choice import choose  # imports PyTorch

        most_lost = PromotionPolicy().max_accuracy_loss
        engine = choose(directory, examples, most_lost, device, engines.candidates(device)).engine
    try:
        return Predictor.load(directory, device=device, engine=engine, threads=THREADS)
    except EngineError:  # a replica does the same
        return Predictor.load(directory, device=device, threads=THREADS)


def _answers(predictor: Predictor, examples: Examples, classes: tuple[str, ...]) -> np.ndarray:
    """Return float64 N×C: the probabilities of these classes alone. Raises CheckpointError if they are not finite."""
    parts = [predictor.probabilities(pixels) for pixels in examples.batches()]
    columns = [predictor.card.classes.index(name) for name in classes]
    found = np.concatenate(parts).astype(float)[:, columns]
    if not np.isfinite(found).all():
        raise CheckpointError("a version's answers are not finite: train it again")
    return found / np.maximum(found.sum(1, keepdims=True), np.finfo(float).tiny)


def _in_turns(predictors: Sequence[Predictor], examples: Sequence[Examples]) -> tuple[float, float]:
    """Return the median milliseconds of each one's forward pass of one image."""
    images = [each.pixels(slice(0, 1)) for each in examples]
    times: tuple[list[float], list[float]] = [], []
    for turn in range(WARM_UP + ROUNDS):
        for predictor, image, measured in zip(predictors, images, times, strict=True):
            time.sleep(PAUSE_S)
            started = time.perf_counter()
            predictor.probabilities(image)
            if turn >= WARM_UP:
                measured.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[0]), statistics.median(times[1])
