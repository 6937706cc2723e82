"""The rows of a dataset version, one for each image, and how two versions differ.

    rows = read_rows(dataset)                      # a pyarrow.Table with the columns of SCHEMA
    difference(read_rows(old), read_rows(new)).added

The order of the rows is the order of the arrays: all of train, then val, gate and test. A dataset that was made before
there were versions has no rows. This module knows neither pixels nor sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raycls.data.packed import LEFT_OUT, ROWS, PackedDataset, damaged

SCHEMA = pa.schema(
    {
        "source": pa.string(),  # path inside the source, or URI
        "sha256": pa.string(),  # of the encoded bytes; of the pixels where a source has only pixels
        "label": pa.string(),
        "split": pa.string(),
        "group": pa.string(),  # images of one group are in one split
        "width": pa.int32(),  # pixels, before resizing
        "height": pa.int32(),
        "mode": pa.string(),  # Pillow's, before the conversion to RGB
        "phash": pa.uint64(),  # see raycls/data/similarity.py
        "noticed": pa.string(),  # what may be wrong with the image, comma-separated
    }
)
LEFT_OUT_SCHEMA = pa.schema(
    {
        "source": pa.string(),
        # ignored: no image by its name and content; unreadable; straddles: like images of two splits; forgotten
        "kind": pa.string(),
        "reason": pa.string(),
        "sha256": pa.string(),  # of the bytes, for the last two kinds
    }
)
EXAMPLES = 5  # of each kind in a message
UPLOADS = "uploads:"  # begins the source of a picture that somebody sent; the sender follows


class LeftOut(NamedTuple):
    """What is not in a version: the columns of LEFT_OUT_SCHEMA."""

    source: str
    kind: str
    reason: str
    sha256: str = ""


@dataclass(frozen=True)
class Difference:
    """What differs between two versions: for each kind the images, as paths in the source.

    relabelled and moved: the same bytes with another label or under another path.
    """

    added: list[str]
    removed: list[str]
    relabelled: list[str]
    moved: list[str]

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        parts = []
        for field in fields(self):
            if images := getattr(self, field.name):
                shown = ", ".join(images[:EXAMPLES]) + (", …" if len(images) > EXAMPLES else "")
                parts.append(f"{len(images):,} {field.name} ({shown})")
        return "; ".join(parts) or "no image differs"


def is_upload(source: str) -> bool:
    """Return whether the picture of this source was uploaded, and did not come with the dataset's own source."""
    return source.startswith(UPLOADS)


def write_table(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def read_rows(dataset: PackedDataset) -> pa.Table:
    """Return the rows of a version. A version without rows gives a table without rows."""
    return _read(dataset, ROWS, SCHEMA)


def read_left_out(dataset: PackedDataset) -> pa.Table:
    """Return what is not in a version: a table with the columns of LEFT_OUT_SCHEMA."""
    return _read(dataset, LEFT_OUT, LEFT_OUT_SCHEMA)


def _read(dataset: PackedDataset, file: str, schema: pa.Schema) -> pa.Table:
    path = dataset.path / file
    if not path.exists():
        return schema.empty_table()
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(dataset.info.reference, f"{file}: {str(error).splitlines()[0]}") from error


def left_out_table(entries: Iterable[LeftOut]) -> pa.Table:
    return pa.Table.from_pylist([entry._asdict() for entry in entries], LEFT_OUT_SCHEMA)


def difference(old: pa.Table, new: pa.Table) -> Difference:
    """Return how `new` differs from `old`: both have the columns source, sha256 and label.

    A row is the same image as one of the other table with the same bytes, first under the same path, then under any.
    """
    before, after = (
        zip(*(table[column].to_pylist() for column in ("sha256", "source", "label")), strict=True)
        for table in (old, new)
    )
    waiting: dict[str, list[tuple[str, str]]] = defaultdict(list)
    exact = {(sha, source): label for sha, source, label in before}
    found = Difference([], [], [], [])
    rest = []
    for sha, source, label in after:
        former = exact.pop((sha, source), None)
        if former is None:
            rest.append((sha, source, label))
        elif former != label:
            found.relabelled.append(source)
    for (sha, source), label in exact.items():
        waiting[sha].append((source, label))
    for sha, source, label in rest:
        if not waiting[sha]:
            found.added.append(source)
            continue
        _, former = waiting[sha].pop(0)
        (found.moved if former == label else found.relabelled).append(source)
    found.removed.extend(source for images in waiting.values() for source, _ in images)
    return found
