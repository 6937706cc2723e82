"""Predictions for every image of a dataset, by models that did not learn from the image.

    probabilities = out_of_fold(open_dataset("pets"), "quick", folds=4)     # float32 N×C, in the order of the manifest

All splits take part: each fold is predicted by a model of the other folds. This module trains in its own process.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from raycls import progress
from raycls.config import Config, preset
from raycls.data.packed import DatasetInfo, PackedDataset
from raycls.engines.predictor import Predictor
from raycls.training.loop import fit

BATCH = 512


def out_of_fold(dataset: PackedDataset, preset_name: str, folds: int) -> np.ndarray:
    """Return float32 N×C: for each row of the manifest, what a model says that was trained without its fold.

    Images of one group are in one fold. Raises TrainingError if a training fails.
    """
    images, labels, groups = _everything(dataset)
    fold_of = _folds(groups, folds)
    probabilities = np.zeros((len(labels), len(dataset.info.classes)), dtype=np.float32)
    with tempfile.TemporaryDirectory() as temporary, progress.bar("training on all but a part", folds) as bar:
        for fold in range(folds):
            outside, inside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            part = _subset(dataset.info, images, labels, outside, inside, Path(temporary) / str(fold))
            checkpoint = Path(temporary) / f"checkpoint-{fold}"
            predictor = _trained(preset(preset_name, part.info), part, checkpoint)
            for start in range(0, len(inside), BATCH):
                chosen = inside[start : start + BATCH]
                probabilities[chosen] = predictor.probabilities(images[chosen])
            bar.advance()
    return probabilities


def _trained(config: Config, dataset: PackedDataset, checkpoint: Path) -> Predictor:
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(checkpoint))
    return Predictor.load(checkpoint)


def predicted(dataset: PackedDataset, predictor: Predictor) -> np.ndarray:
    """Return float32 N×C: what one model says of each row of the manifest. Its classes must be the dataset's."""
    images, labels, _ = _everything(dataset)
    starts = range(0, len(labels), BATCH)
    return np.concatenate([predictor.probabilities(images[start : start + BATCH]) for start in starts])


def _everything(dataset: PackedDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (uint8 N×S×S×3), labels (int64 N) and groups (str N) of all splits."""
    from raycls.data.manifest import read_rows

    splits = dataset.info.counts
    images = np.concatenate([dataset.images(split) for split in splits])
    labels = np.concatenate([dataset.labels(split) for split in splits])
    return images, labels, read_rows(dataset)["group"].to_numpy(zero_copy_only=False).astype(str)


def _folds(groups: np.ndarray, folds: int) -> np.ndarray:
    names, member_of = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) % folds)[member_of]


def _subset(
    info: DatasetInfo,
    images: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    folder: Path,
) -> PackedDataset:
    """Write some of the images as a dataset whose validation split has the others."""
    for split, chosen in (("train", train), ("val", val)):
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "images.npy", images[chosen])
        np.save(folder / split / "labels.npy", labels[chosen])
    counts = {"train": len(train), "val": len(val)}
    return PackedDataset(folder, info.model_copy(update={"counts": counts}))
