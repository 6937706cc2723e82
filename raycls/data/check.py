"""What may be wrong with a dataset version: pictures, copies, splits, and with predictions its labels and classes.

    findings = check(dataset, probabilities=None)
    findings[0].title, findings[0].images[0].source

This module knows arrays and rows. raycls/training/out_of_fold.py makes the predictions, and raycls/reports/ the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raycls.data.label_errors import label_errors
from raycls.data.manifest import read_rows
from raycls.data.packed import PackedDataset, PixelStore
from raycls.errors import DataError

DARK, BRIGHT = 20, 235  # mean grey levels
BLURRED = 0.1  # of the median sharpness of the dataset
ODD_SHAPE = 3  # times longer than wide, or wider than long
FEW = 20  # images of a class
RARE = 0.1  # of the median class
CONFUSED = 0.15  # of a class's images
DRIFT = 0.2  # the Kolmogorov-Smirnov distance of a measure between train and another split
BLOCK = 1024


@dataclass(frozen=True)
class Suspect:
    """One image of a finding. index: its row in the manifest. note: what is wrong with it."""

    index: int
    source: str
    sha256: str
    label: str
    split: str
    note: str


@dataclass(frozen=True)
class Finding:
    """Something that may be wrong. advice: what to do. images: the worst ones first; empty where it is of classes."""

    title: str
    advice: str
    sentences: list[str] = field(default_factory=list)
    images: list[Suspect] = field(default_factory=list)


def check(dataset: PackedDataset, probabilities: np.ndarray | None) -> list[Finding]:
    """Return what was found, the gravest kind first.

    probabilities: float N×C for all rows of the manifest, from models that did not learn from the image; None leaves
    the labels and the confused classes out. Raises DataError for a version without rows.
    """
    rows = read_rows(dataset)
    if not len(rows):
        raise DataError(
            f"{dataset.info.reference} does not know its files: prepare it again to make a version that does"
        )
    table = _Table(dataset, rows)
    found = [
        *_labels(table, probabilities),
        *_copies(table),
        *_pictures(table),
        *_classes(table, probabilities),
    ]
    return [finding for finding in (*found, *_drift(table)) if finding.images or finding.sentences]


class _Table:
    """The rows of a version in arrays, and measures of each picture."""

    def __init__(self, dataset: PackedDataset, rows: pa.Table):
        self.dataset, self.classes = dataset, dataset.info.classes
        self.columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.column_names}
        splits = dataset.info.counts
        self.labels = np.concatenate([dataset.labels(split) for split in splits])
        measured = [part for split in splits for part in _measures(dataset.images(split))]
        self.brightness, self.contrast, self.sharpness = np.concatenate(measured, axis=1)

    def suspects(self, chosen: np.ndarray, notes: list[str]) -> list[Suspect]:
        names = ("source", "sha256", "label", "split")
        return [
            Suspect(index=int(i), note=note, **{name: str(self.columns[name][i]) for name in names})
            for i, note in zip(chosen, notes, strict=True)
        ]


def _measures(images: PixelStore) -> Iterator[np.ndarray]:
    """Yield brightness, contrast and sharpness of blocks of images: float 3×B, in grey levels."""
    for start in range(0, len(images), BLOCK):
        grey = images[start : start + BLOCK].astype(np.float32).mean(3)
        around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        edges = around - 4 * grey[:, 1:-1, 1:-1]  # Laplace's operator
        yield np.stack([grey.mean((1, 2)), grey.std((1, 2)), edges.std((1, 2))])


def _labels(table: _Table, probabilities: np.ndarray | None) -> Iterator[Finding]:
    if probabilities is None:
        return
    chosen = label_errors(table.labels, probabilities)
    best = probabilities[chosen].argmax(1)
    notes = [
        f"labelled {table.classes[table.labels[i]]} ({probabilities[i, table.labels[i]]:.0%}), looks like "
        f"{table.classes[other]} ({probabilities[i, other]:.0%})"
        for i, other in zip(chosen, best, strict=True)
    ]
    yield Finding(
        "Probable label errors",
        "Look at them. Move the file to its class, or leave it out with --exclude.",
        images=table.suspects(chosen, notes),
    )


def _copies(table: _Table) -> Iterator[Finding]:
    groups, splits = table.columns["group"], table.columns["split"]
    _, member_of, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(member_of, kind="stable")
    across: list[tuple[int, str]] = []
    within: list[tuple[int, str]] = []
    labels: list[tuple[int, str]] = []
    for members in np.split(order, np.cumsum(sizes)[:-1]):
        if len(members) < 2:
            continue
        first = members[0]
        target = across if len(set(splits[members])) > 1 else within
        target += [(i, f"almost the same as {table.columns['source'][first]}") for i in members[1:]]
        digests = table.columns["sha256"][members]
        for digest in {digest for digest in digests if (digests == digest).sum() > 1}:
            same = members[digests == digest]
            if len(set(table.labels[same])) > 1:
                labels += [(i, f"the same file is also {table.columns['label'][same[0]]}") for i in same[1:]]
    for title, advice, found in (
        (
            "The same file with two labels",
            "Keep the right one, and leave the other out with --exclude.",
            labels,
        ),
        (
            "Copies across splits",
            "The accuracy on that split is too high. Leave them out with --exclude.",
            across,
        ),
        ("Copies and groups within a split", "They count more than other images. That may be meant.", within),
    ):
        yield Finding(
            title, advice, images=table.suspects(np.array([i for i, _ in found], int), [n for _, n in found])
        )


def _pictures(table: _Table) -> Iterator[Finding]:
    width, height = (table.columns[name].astype(float) for name in ("width", "height"))
    blank = table.contrast < 1
    sharp = BLURRED * np.median(table.sharpness)
    side = table.dataset.info.image_size
    shortest, shape = (
        np.minimum(width, height),
        np.maximum(width, height) / np.maximum(1, np.minimum(width, height)),
    )
    for title, advice, chosen, measure, unit in (
        ("Blank pictures", "They show one colour. Leave them out.", blank, table.contrast, "contrast {:.1f}"),
        ("Dark pictures", "Look whether anything can be seen.", (table.brightness < DARK) & ~blank, table.brightness,
         "brightness {:.0f} of 255"),
        ("Bright pictures", "Look whether anything can be seen.", (table.brightness > BRIGHT) & ~blank,
         255 - table.brightness, "{:.0f} levels from white"),
        ("Blurred pictures", "Look whether the object can be seen.", (table.sharpness < sharp) & ~blank,
         table.sharpness, "sharpness {:.1f}"),
        ("Tiny pictures", f"They were enlarged to {side} pixels.", shortest < side / 2, shortest, "{:.0f} pixels"),
        ("Pictures of odd shape", "With --resize crop, only the middle of them is seen.", shape > ODD_SHAPE, -shape,
         "{:.1f} times longer than wide"),
    ):  # fmt: skip
        found = np.flatnonzero(chosen)
        found = found[np.argsort(measure[found], kind="stable")]
        yield Finding(
            title, advice, images=table.suspects(found, [unit.format(abs(measure[i])) for i in found])
        )


def _classes(table: _Table, probabilities: np.ndarray | None) -> Iterator[Finding]:
    counts = np.bincount(table.labels, minlength=len(table.classes))
    few = np.flatnonzero((counts < FEW) | (counts < RARE * np.median(counts)))
    yield Finding(
        "Classes with few images",
        "Add images. --set training.balance weighs them more.",
        [
            f"{table.classes[i]} has {counts[i]:,} images; the median class has {np.median(counts):,.0f}"
            for i in few
        ],
    )
    empty = [
        f"{split} has no image of {table.classes[label]}"
        for split, found in table.dataset.info.class_counts.items()
        for label, count in enumerate(found)
        if not count
    ]
    yield Finding("Splits without a class", "The figures of that split say nothing about the class.", empty)
    if probabilities is None:
        return
    confusion = np.zeros((len(table.classes), len(table.classes)))
    np.add.at(confusion, (table.labels, probabilities.argmax(1)), 1)
    share = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    np.fill_diagonal(share, 0)
    pairs = sorted(((share[i, j], i, j) for i, j in np.argwhere(share >= CONFUSED)), reverse=True)
    yield Finding(
        "Confused classes",
        "Look whether the two can be told apart, and whether their labels follow one rule.",
        [f"{part:.0%} of {table.classes[i]} look like {table.classes[j]}" for part, i, j in pairs],
    )


def _drift(table: _Table) -> Iterator[Finding]:
    """Compare brightness, contrast, sharpness and size of the pictures of each split with those of train."""
    from scipy.stats import ks_2samp

    sentences = []
    splits = table.columns["split"]
    measures = {
        "brightness": table.brightness,
        "contrast": table.contrast,
        "sharpness": table.sharpness,
        "width": table.columns["width"].astype(float),
    }
    for split in table.dataset.info.counts:
        inside = splits == split
        if split == "train" or inside.sum() < FEW:
            continue
        for name, values in measures.items():
            distance = ks_2samp(values[splits == "train"], values[inside])
            if distance.statistic > DRIFT and distance.pvalue < 0.001:
                sentences.append(
                    f"{name} differs between train (median {np.median(values[splits == 'train']):.0f}) and {split} "
                    f"(median {np.median(values[inside]):.0f})"
                )
    yield Finding(
        "Splits of different pictures",
        "A split should look like what the model will meet. Look where the pictures of each split come from.",
        sentences,
    )
