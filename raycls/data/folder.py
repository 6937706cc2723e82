"""A packed dataset from a folder of class folders: find the files, decode them on Ray, split them, write them.

    photos/cat/1.jpg, photos/dog/2.png …             split 70/20/10, stratified
    photos/train/cat/…, photos/val/…, photos/test/…  split as the folder is

    with write_dataset("photos") as writer:
        pack(existing("photos"), writer, size=64)

raycls/data/transforms.py decodes and resizes the images here and those sent for prediction, so both give the same
pixels. This module knows files and classes; raycls/data/ingest.py knows Ray.
"""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from raycls import progress
from raycls.data.ingest import decode_all
from raycls.data.packed import SPLITS, PackedDataset, SkippedFile
from raycls.data.splits import SHARES, stratified_split
from raycls.data.writer import DatasetWriter
from raycls.errors import DataError, UsageError

SIZES = range(8, 1025)  # pixels a side
MAX_UNREADABLE = 0.05  # share of all files
MIN_IMAGES = 3  # images of a class: one for each split
_SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)


@dataclass(frozen=True)
class Found:
    """The files in a folder. labels: int64, an index into classes for each file. splits: a name for each file, or None.

    splits is None if the folder has no train/, val/ and test/.
    """

    classes: tuple[str, ...]
    files: list[Path]
    labels: np.ndarray
    splits: np.ndarray | None


def existing(source: str) -> Path:
    """Return the absolute path of a source. Raises UsageError if there is no such folder."""
    path = Path(source).expanduser().resolve()
    if path.is_dir():
        return path
    problem = "is a file, not a folder of class folders" if path.exists() else "does not exist"
    raise UsageError(f"{source} {problem}: a source is cifar10, digits or the path of a folder")


def check_size(size: int | None) -> None:
    """Raise UsageError if the size is not in SIZES."""
    if size is not None and size not in SIZES:
        raise UsageError(f"--size {size} is out of range: from {SIZES[0]} to {SIZES[-1]} pixels a side")


def pack(path: Path, writer: DatasetWriter, size: int | None) -> PackedDataset:
    """Make a dataset of the folder's images and return it. The same folder gives the same fingerprint.

    size: pixels a side; None means `default_size`. Raises DataError, which names the class with too few images or the
    unreadable files.
    """
    found = scan(path)
    _check_counts(found.classes, found.labels)
    if size is None:
        size = default_size(found.files)
        progress.say(f"image size {size}: the median of the shorter sides. Choose another one with --size")
    scratch = "decoded.npy"
    decoded = writer.array(scratch, (len(found.files), size, size, 3))
    unreadable = decode_all(found.files, decoded)
    skipped = tuple(
        SkippedFile(path=str(found.files[position].relative_to(path)), reason=unreadable[position])
        for position in sorted(unreadable)
    )
    if len(skipped) > MAX_UNREADABLE * len(found.files):
        raise DataError(
            f"{len(skipped)} of {len(found.files)} files are unreadable, more than {MAX_UNREADABLE:.0%}: remove "
            f"them. The first is {skipped[0].path} ({skipped[0].reason})"
        )
    if skipped:
        progress.say(
            f"skipped {len(skipped)} of {len(found.files)} files: see their reasons in manifest.json"
        )
    chosen = choose(found, np.setdiff1d(np.arange(len(found.files)), [*unreadable]))
    for split in SPLITS:
        writer.fill(split, decoded, chosen[split])
    (writer.path / scratch).unlink()
    return writer.publish(
        classes=found.classes,
        labels={split: found.labels[chosen[split]] for split in SPLITS},
        mirrorable=True,
        source=str(path),
        licence="not stated: the licence of the images in the folder",
        skipped=skipped,
    )


def scan(path: Path) -> Found:
    """Return all files below the class folders, sorted. Files and folders whose names begin with a dot are ignored.

    Raises DataError for fewer than two classes, or if split folders and class folders are side by side.
    """
    folders = _folders(path)
    parents: dict[str | None, Path] = {_SPLIT_NAMES.get(folder.name.lower()): folder for folder in folders}
    if "train" not in parents or not {"val", "test"} & set(parents):
        parents = {None: path}
    elif None in parents or len(parents) < len(folders):
        raise DataError(
            f"{path} holds {', '.join(folder.name for folder in folders)}: it must hold only class folders, or only "
            "train/, val/ and test/. Move the other folders away"
        )
    classes = tuple(sorted({folder.name for parent in parents.values() for folder in _folders(parent)}))
    if len(classes) < 2:
        raise DataError(
            f"{path} has {len(classes)} class folders ({', '.join(classes) or 'none'}): make at least two, each with "
            "the images of its class"
        )
    _warn_of_nested_classes(path, [folder for parent in parents.values() for folder in _folders(parent)])
    files: list[Path] = []
    labels: list[int] = []
    splits: list[str | None] = []
    for split, parent in parents.items():
        for folder in _folders(parent):
            inside = list(_files(folder))
            files += inside
            labels += [classes.index(folder.name)] * len(inside)
            splits += [split] * len(inside)
    return Found(
        classes,
        files,
        np.array(labels, dtype=np.int64),
        None if None in parents else np.array(splits, dtype=str),
    )


def _warn_of_nested_classes(path: Path, folders: list[Path]) -> None:
    """Report on stderr if all class folders hold the same folders and nothing else: those may be the classes."""
    inside = [
        {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} for folder in folders
    ]
    first = sorted(inside[0])
    if (
        len(first) > 1
        and all(names == set(first) for names in inside)
        and len(_folders(folders[0])) == len(first)
    ):
        progress.say(
            f"every class folder of {path} ({_some(folder.name for folder in folders)}) holds the same folders "
            f"({_some(first)}): their images belong to the class above. If they are the classes, put them side by side"
        )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (", …" if len(listed) > 4 else "")


def default_size(files: list[Path]) -> int:
    """Return the median of the images' shorter sides, rounded down to a multiple of 8, from 8 to 224 pixels.

    Of more than 1,000 files it reads 500 to 1,000, evenly spaced.
    """
    sides = []
    for file in files[:: max(1, len(files) // 500)]:
        if not file.is_file():  # opening a FIFO could wait for ever
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(file) as image:
                    sides.append(min(image.size))
        except Exception:  # Pillow raises many types; `decode_all` reads the same file again and reports it
            continue
    return int(min(224, max(8, statistics.median(sides or [0]) // 8 * 8)))


def choose(found: Found, readable: np.ndarray) -> dict[str, np.ndarray]:
    """Return the files of each split, as int64 positions in `found.files`.

    readable: the positions of the readable files. A folder's own splits are kept. If val or test has no images, a part
    of train is used for it. Raises DataError, which names a class with too few images.
    """
    labels = found.labels[readable]
    _check_counts(found.classes, labels)
    if found.splits is None:
        return {split: readable[part] for split, part in stratified_split(labels, SHARES).items()}
    splits = found.splits[readable]
    for index, name in enumerate(found.classes):
        count = np.count_nonzero(labels[splits == "train"] == index)
        if count < MIN_IMAGES:
            raise DataError(
                f"class {name} has {count} readable images in train/, but at least {MIN_IMAGES} are needed: add some"
            )
    chosen = {split: np.random.default_rng(0).permutation(readable[splits == split]) for split in SPLITS}
    for split in SPLITS:
        if len(chosen[split]) == 0:
            share = SHARES[split] / (SHARES["train"] + SHARES[split])
            progress.say(f"{split}/ is empty: {share:.0%} of train/ is used for it (stratified by class)")
            train = chosen["train"]
            parts = stratified_split(found.labels[train], {"train": 1 - share, split: share})
            chosen |= {part: train[indices] for part, indices in parts.items()}
        for index in np.setdiff1d(np.arange(len(found.classes)), found.labels[chosen[split]]):
            progress.say(f"{split}/ has no image of class {found.classes[index]}")
    return chosen


def _check_counts(classes: tuple[str, ...], labels: np.ndarray) -> None:
    for name, count in zip(classes, np.bincount(labels, minlength=len(classes)), strict=True):
        if count < MIN_IMAGES:
            raise DataError(
                f"class {name} has {count} readable images, but at least {MIN_IMAGES} are needed: add some, or "
                "remove its folder"
            )


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))
