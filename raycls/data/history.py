"""What the earlier versions of a dataset say of its images: the group and the split of each.

    former = former_splits("pets", columns, labels, classes, pixels)
    former.splits          # int64 N, an index into SPLITS, or NEW

An image is found by its bytes. A dataset from before there were versions has no rows: there it is found by its pixels,
or by its class and perceptual hash, because a large JPEG is decoded in another way today.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycls.data.groups import Former
from raycls.data.layout import removed_rows, versions_of
from raycls.data.manifest import read_rows
from raycls.data.packed import SPLITS, PackedDataset
from raycls.data.similarity import perceptual_hashes
from raycls.data.splits import NEW
from raycls.data.versions import open_dataset
from raycls.progress import say

BLOCK = 1024  # images looked at at a time

Place = tuple[str, int]  # group, and index into SPLITS


def former_splits(
    name: str,
    columns: dict[str, np.ndarray],
    labels: np.ndarray,
    classes: tuple[str, ...],
    pixels: Callable[[np.ndarray], np.ndarray],
) -> Former:
    """Return group and split of N images, as the latest version that has them says.

    columns: source, sha256, key and phash. labels: int64 N, indices into classes. pixels returns the images at
    some positions. Copies of one image may have been in two splits of the source: the path decides.
    """
    by_path: dict[tuple[str, str], Place] = {}  # only of bytes that a version has more than once
    by_digest: dict[str, Place] = {}
    by_group: dict[str, Place] = {}
    has_keys = bool((columns["key"] != "").any())
    unnamed: PackedDataset | None = None
    for rows, dataset in _versions(name):
        if not len(rows):
            unnamed = dataset
        counts = pc.value_counts(rows["sha256"])
        repeated = set(pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1)).to_pylist())
        for batch in rows.select(("sha256", "source", "group", "split")).to_batches(BLOCK):
            for digest, source, group, split in zip(*(column.to_pylist() for column in batch), strict=True):
                by_digest[digest] = place = (group, SPLITS.index(split))
                if digest in repeated:
                    by_path[digest, source] = place
                if has_keys:
                    by_group[group] = place
    groups, splits = np.full(len(labels), "", dtype=object), np.full(len(labels), NEW)
    for position, (digest, source) in enumerate(zip(columns["sha256"], columns["source"], strict=True)):
        # The files of a user's group may all be others now.
        if found := (
            by_path.get((digest, source))
            or by_digest.get(digest)
            or (columns["key"][position] and by_group.get(columns["key"][position]))
        ):
            groups[position], splits[position] = found
    if unnamed is not None:
        _find_by_pixels(unnamed, Former(groups, splits), columns, labels, classes, pixels)
        found = np.count_nonzero(splits != NEW)
        say(
            f"{found:,} of {len(labels):,} images are those of {unnamed.info.reference}, and keep their splits"
        )
    return Former(groups, splits)


def _versions(name: str) -> Iterator[tuple[pa.Table, PackedDataset | None]]:
    """Yield rows and dataset of each version that a name has or had, in order. A removed one has rows only."""
    present, removed = versions_of(name), removed_rows(name)
    for version in sorted({*present, *removed}):
        if version in present:
            dataset = open_dataset(f"{name}@{version}")
            yield read_rows(dataset), dataset
        else:
            yield pq.read_table(removed[version]), None


def _find_by_pixels(
    dataset: PackedDataset,
    former: Former,
    columns: dict[str, np.ndarray],
    labels: np.ndarray,
    classes: tuple[str, ...],
    pixels: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Fill in the images of a dataset without rows."""
    exact: dict[str, int] = {}
    alike: dict[tuple[str, int], set[int]] = {}
    for split in dataset.info.counts:
        images, own = dataset.images(split), dataset.labels(split)
        for start in range(0, len(own), BLOCK):
            block = np.asarray(images[start : start + BLOCK])
            hashes = perceptual_hashes(block)
            for image, label, phash in zip(block, own[start : start + BLOCK], hashes, strict=True):
                exact[_digest(image)] = SPLITS.index(split)
                known_as = (dataset.info.classes[label], int(phash))
                alike.setdefault(known_as, set()).add(SPLITS.index(split))
    missing = np.flatnonzero(former.splits == NEW)
    for start in range(0, len(missing), BLOCK):
        chosen = missing[start : start + BLOCK]
        for position, image in zip(chosen, pixels(chosen), strict=True):
            places = alike.get((classes[labels[position]], int(columns["phash"][position])), set())
            found = exact.get(_digest(image), min(places) if len(places) == 1 else NEW)
            former.splits[position] = found
            if found != NEW:
                former.groups[position] = columns["sha256"][position][:16]


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()
