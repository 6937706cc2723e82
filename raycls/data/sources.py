"""The sources of datasets: `prepare` makes a packed dataset from a source, unless it exists already.

    prepare("cifar10")                       # or "digits"
    prepare("photos/flowers", size=64)       # a folder of class folders

raycls/data/cifar10.py and raycls/data/folder.py get the images. This module knows neither the command line nor
training.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from raycls import progress
from raycls.data import cifar10, folder
from raycls.data.packed import SPLITS, PackedDataset, open_dataset
from raycls.data.splits import SHARES, stratified_split
from raycls.data.writer import DatasetWriter, write_dataset
from raycls.errors import UnknownDatasetError, UsageError

BUILT_IN = ("cifar10", "digits")


def prepare(
    source: str,
    *,
    root: Path | None = None,
    size: int | None = None,
    name: str | None = None,
    force: bool = False,
) -> PackedDataset:
    """Return the dataset of a source. Prepare it if it does not exist.

    source: "cifar10", "digits", or the path of a folder of class folders. root: for cifar10, a folder with
    torchvision's files. size (pixels a side) and name: for a folder; the defaults come from its images and its name.
    force: prepare the dataset again and replace the existing one.

    Raises UsageError (no such source, a name in use, options that do not fit the source), SourceError (every source of
    CIFAR-10 failed), BusyError (another process is preparing the dataset) or DataError (the images make no dataset).
    """
    if root is not None and source != "cifar10":
        raise UsageError(f"--root is the folder of CIFAR-10's files: remove it for {source}")
    path = None
    if source in BUILT_IN:
        if size is not None or name is not None:
            raise UsageError(f"--size and --name are for folders: remove them for {source}")
        name = source
    else:
        path = folder.existing(source)
        folder.check_size(size)
        name = name or path.name.lower()
        if name in BUILT_IN:
            raise UsageError(f"the name {name} belongs to the built-in dataset: choose another with --name")
    if not force and (dataset := _existing(name, path, size)):
        progress.say(f"{name} is already prepared. Add --force to prepare it again")
        return dataset
    with write_dataset(name) as writer:
        if path is not None:
            return folder.pack(path, writer, size)
        return _cifar10(writer, root) if source == "cifar10" else _digits(writer)


def _existing(name: str, path: Path | None, size: int | None) -> PackedDataset | None:
    """Return the prepared dataset, or None. Raises UsageError if it has another source or size than asked for."""
    try:
        dataset = open_dataset(name)
    except UnknownDatasetError:
        return None
    made = dataset.manifest
    if path is not None and (made.source != str(path) or size not in (None, made.image_size)):
        raise UsageError(
            f"the dataset {name} already exists, from {made.source} at {made.image_size} pixels: choose another "
            "name with --name, or replace the dataset with --force"
        )
    return dataset


def _cifar10(writer: DatasetWriter, root: Path | None) -> PackedDataset:
    with tempfile.TemporaryDirectory(dir=writer.path) as scratch:
        arrays, origin = cifar10.fetch(root, Path(scratch))
    with progress.bar("packing CIFAR-10"):
        images, labels = arrays["train"]
        # The official test split stays as it is. The validation images come from the training batches.
        chosen = stratified_split(labels, {"train": 0.9, "val": 0.1})
        for split, indices in chosen.items():
            writer.fill(split, images, indices)
        test_images, test_labels = arrays["test"]
        writer.fill("test", test_images, np.arange(len(test_images)))
        return writer.publish(
            classes=cifar10.CLASSES,
            labels={"train": labels[chosen["train"]], "val": labels[chosen["val"]], "test": test_labels},
            mirrorable=True,
            source=f"CIFAR-10, from {origin}",
            licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features, 2009",
        )


def _digits(writer: DatasetWriter) -> PackedDataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn's values are 0..16
    pixels = np.repeat(grey[..., None], 3, axis=3)
    chosen = stratified_split(digits.target, SHARES)
    for split in SPLITS:
        writer.fill(split, pixels, chosen[split])
    return writer.publish(
        classes=tuple("0123456789"),
        labels={split: digits.target[chosen[split]] for split in SPLITS},
        mirrorable=False,
        source="the digits of scikit-learn",
        licence="CC BY 4.0: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
    )
