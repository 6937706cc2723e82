"""Predictions for every image of a dataset, by models that did not learn from the image.

    probabilities = out_of_fold(open_dataset("pets"), "quick", folds=4)     # float32 N×C, in the order of the manifest

All splits take part: each fold is predicted by a model of the other folds. This module trains in its own process.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from raycls import progress
from raycls.config import Config
from raycls.data.manifest import read_rows
from raycls.data.packed import PackedDataset
from raycls.engines.predictor import Predictor
from raycls.training.calibration import calibrated
from raycls.training.loop import fit
from raycls.training.presets import preset

BATCH = 512  # images that are copied at once


def out_of_fold(dataset: PackedDataset, preset_name: str, folds: int) -> np.ndarray:
    """Return float32 N×C: for each row of the manifest, what a model says that was trained without its fold.

    Images of one group are in one fold. While a fold is trained, a copy of the dataset is on disk. Raises TrainingError
    if a training fails.
    """
    whole = _Whole(dataset)
    fold_of = _folds(whole.groups(), folds)
    probabilities = np.zeros((len(whole.labels), len(dataset.info.classes)), dtype=np.float32)
    with progress.bar("training on all but a part", folds) as bar:
        for fold in range(folds):
            outside, inside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            with tempfile.TemporaryDirectory() as temporary:
                part = whole.subset(outside, inside, Path(temporary) / "dataset")
                predictor = _trained(preset(preset_name, part.info), part, Path(temporary) / "checkpoint")
            for positions in _batches(inside):
                probabilities[positions] = _predict(
                    predictor, whole.images(positions), dataset.info.mirrorable
                )
            bar.advance()
    return probabilities


def predicted(dataset: PackedDataset, predictor: Predictor) -> np.ndarray:
    """Return float32 N×C: what one model says of each row of the manifest. Its classes must be the dataset's."""
    whole = _Whole(dataset)
    everything = np.arange(len(whole.labels))
    mirrorable = dataset.info.mirrorable
    return np.concatenate(
        [_predict(predictor, whole.images(some), mirrorable) for some in _batches(everything)]
    )


def _predict(predictor: Predictor, images: np.ndarray, mirrorable: bool) -> np.ndarray:
    """Return float32 N×C: the mean over an image and its mirror image, where that shows the same class."""
    found = predictor.probabilities(images)
    if mirrorable:
        found = (found + predictor.probabilities(np.ascontiguousarray(images[:, :, ::-1]))) / 2
    return found


def _trained(config: Config, dataset: PackedDataset, checkpoint: Path) -> Predictor:
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(checkpoint))
    return calibrated(Predictor.load(checkpoint), dataset)[0]


class _Whole:
    """All splits of a dataset as one sequence, in the order of the manifest. Only what is asked for is in memory."""

    def __init__(self, dataset: PackedDataset):
        self._dataset = dataset
        splits = dataset.info.counts
        self.labels = np.concatenate([dataset.labels(split) for split in splits])
        self._images = [dataset.images(split) for split in splits]
        self._starts = np.cumsum([0, *splits.values()])

    def groups(self) -> np.ndarray:
        """Return the group of each image: str N."""
        return read_rows(self._dataset)["group"].to_numpy(zero_copy_only=False).astype(str)

    def images(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at M positions: uint8 M×S×S×3."""
        side = self._dataset.info.image_size
        found = np.empty((len(positions), side, side, 3), dtype=np.uint8)
        split_of = np.searchsorted(self._starts, positions, side="right") - 1
        for split in np.unique(split_of):
            chosen = split_of == split
            found[chosen] = self._images[split][positions[chosen] - self._starts[split]]
        return found

    def subset(self, train: np.ndarray, val: np.ndarray, folder: Path) -> PackedDataset:
        """Write some of the images as a dataset whose validation split has the others."""
        info = self._dataset.info
        for split, chosen in (("train", train), ("val", val)):
            (folder / split).mkdir(parents=True)
            np.save(folder / split / "labels.npy", self.labels[chosen])
            shape = (len(chosen), info.image_size, info.image_size, 3)
            out = np.lib.format.open_memmap(folder / split / "images.npy", "w+", np.uint8, shape)
            for start in range(0, len(chosen), BATCH):
                out[start : start + BATCH] = self.images(chosen[start : start + BATCH])
        return PackedDataset(
            folder, info.model_copy(update={"counts": {"train": len(train), "val": len(val)}})
        )


def _folds(groups: np.ndarray, folds: int) -> np.ndarray:
    names, member_of = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) % folds)[member_of]


def _batches(positions: np.ndarray) -> list[np.ndarray]:
    return np.array_split(positions, range(BATCH, len(positions), BATCH))
