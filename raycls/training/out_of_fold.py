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
from raycls.data.packed import SPLITS, PackedDataset
from raycls.data.pixels import BATCH
from raycls.data.subsets import Images, Subset, opened
from raycls.engines.predictor import Predictor
from raycls.training.calibration import calibrated
from raycls.training.loop import fit
from raycls.training.presets import preset


def out_of_fold(dataset: PackedDataset, preset_name: str, folds: int) -> np.ndarray:
    """Return float32 N×C: for each row of the manifest, what a model says that was trained without its fold.

    Images of one group are in one fold. While a fold is trained, a copy of the dataset is on disk. Raises TrainingError
    if a training fails, and UsageError where there are fewer groups than folds.
    """
    images = Images(dataset, SPLITS)
    probabilities = np.zeros((len(images.labels), len(dataset.info.classes)), dtype=np.float32)
    with progress.bar("training on all but a part", folds) as bar:
        for fold in range(1, folds + 1):
            subset = Subset(splits=SPLITS, folds=folds, fold=fold)
            with opened(dataset, subset) as part, tempfile.TemporaryDirectory() as folder:
                predictor = _trained(preset(preset_name, part.info), part, Path(folder))
            for positions in _batches(subset.rows(images)[1]):
                probabilities[positions] = _predict(predictor, images.at(positions), dataset.info.mirrorable)
            bar.advance()
    return probabilities


def predicted(dataset: PackedDataset, predictor: Predictor) -> np.ndarray:
    """Return float32 N×C: what one model says of each row of the manifest. Its classes must be the dataset's."""
    images = Images(dataset, SPLITS)
    everything = np.arange(len(images.labels))
    mirrorable = dataset.info.mirrorable
    return np.concatenate([_predict(predictor, images.at(some), mirrorable) for some in _batches(everything)])


def _predict(predictor: Predictor, images: np.ndarray, mirrorable: bool) -> np.ndarray:
    """Return float32 N×C: the mean over an image and its mirror image, where that shows the same class."""
    found = predictor.probabilities(images)
    if mirrorable:
        found = (found + predictor.probabilities(np.ascontiguousarray(images[:, :, ::-1]))) / 2
    return found


def _trained(config: Config, dataset: PackedDataset, checkpoint: Path) -> Predictor:
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(checkpoint))
    return calibrated(Predictor.load(checkpoint), dataset)[0]


def _batches(positions: np.ndarray) -> list[np.ndarray]:
    return np.array_split(positions, range(BATCH, len(positions), BATCH))
