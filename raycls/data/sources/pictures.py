"""The pictures of a source, one after another and without labels, for work on more of them than a list can hold.

    source = find("s3://bucket/photos")            # or a folder, a table, a dataset version like pets@2
    for picture in pictures(source): …             # the same order each time, while nothing changes
    where = whole(picture.where, source)           # for raycls/data/readers.py

A place inside the source is relative to it. What names a source may hold a password, and what is written about its
pictures does not; a row of a table whose URI has one is no picture. Every file of a folder counts as a picture, except
what operating systems and programs leave behind; a Parquet file in it is a table of pictures. This module opens no
picture.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

import pyarrow.parquet as pq

from raycls.data.class_names import printable
from raycls.data.files import exists, files_in_order, has_password, is_uri, join, shown, without_password
from raycls.data.layout import names
from raycls.data.listing import Where
from raycls.data.manifest import ROWS, SCHEMA
from raycls.data.packed import SPLITS, PackedDataset
from raycls.data.sources.local import entries
from raycls.data.sources.table import TABLES, rows_in_order
from raycls.data.sources.tree import is_litter
from raycls.data.versions import open_dataset
from raycls.errors import DataError, UnknownDatasetError, UsageError
from raycls.progress import say

ROWS_AT_ONCE = 65_536  # of a dataset version's manifest
TAKEN = "a folder of pictures, a .csv, .jsonl or .parquet table with `path` or `bytes`, or a dataset version"
# Kinds of places beside those of raycls/data/readers.py: why there is none; a split, a row and the SHA-256.
MISSING, PACKED = "missing", "packed"
WITH_PASSWORD = "the URI has a password: take it out of the table, and give it by the environment"


class Picture(NamedTuple):
    """name: the picture's path in a folder, or what its table calls it. where: relative to the source."""

    name: str
    where: Where


@dataclass(frozen=True)
class PictureSource:
    """Where pictures are. address: with the password that a URI may hold. root: what places are relative to."""

    kind: Literal["folder", "table", "dataset"]
    address: str
    root: str = ""
    dataset: PackedDataset | None = None

    @property
    def shown(self) -> str:
        """Return the address without a password, or the dataset version, as one line."""
        return printable(shown(self.address))

    @property
    def digest(self) -> str:
        """Return a digest of the address without the name and the password in it, which may change."""
        return hashlib.sha256(os.fsencode(without_password(self.address))).hexdigest()

    @property
    def is_local(self) -> bool:
        """Return whether only this machine has the pictures."""
        return self.kind != "dataset" and not is_uri(self.address)


def find(source: str) -> PictureSource:
    """Return what a name means: what exists at the path or URI, else a dataset version.

    Raises UsageError if there is nothing, and UnknownDatasetError.
    """
    path, mark, query = source.partition("?")
    address = f"{path.rstrip('/')}{mark}{query}"  # of a URI
    if not is_uri(source):
        address = str(Path(source).expanduser().absolute())
    try:
        kind = exists(address)
    except OSError as error:
        raise UsageError(f"{shown(source)} cannot be opened: {shown(str(error).splitlines()[0])}") from None
    if kind == "nothing":
        if is_uri(source) or "/" in source:
            raise UsageError(f"{shown(source)} does not exist: give {TAKEN}")
        try:
            dataset = open_dataset(source)
        except UnknownDatasetError as error:
            raise UnknownDatasetError(f"there is no folder or table {source} here, and {error}") from None
        return PictureSource("dataset", dataset.info.reference, dataset=dataset)
    if kind == "folder":
        if source in names():
            say(f"{source} is a folder and a dataset: the folder is taken; name a version for the dataset")
        return PictureSource("folder", address, address)
    if not address.partition("?")[0].lower().endswith(TABLES):
        raise UsageError(f"{shown(source)} is no source: give {TAKEN}")
    return PictureSource("table", address, _folder_of(address))


def pictures(source: PictureSource) -> Iterator[Picture]:
    """Yield the pictures. Raises DataError for a damaged table, and OSError if a bucket cannot be listed."""
    if source.dataset:
        yield from _of_dataset(source.dataset)
    elif source.kind == "table":
        name = Path(source.address.partition("?")[0]).name
        yield from _of_table(source, unquote(name) if is_uri(source.address) else name)
    elif is_uri(source.address):
        for path, size, changed in files_in_order(source.address):
            if not any(is_litter(part) for part in path.split("/")):
                yield from _of_file(source, path, ("file", path, size, changed))
    else:
        for entry in entries(Path(source.address)):
            if entry.kind == "file":
                yield from _of_file(source, entry.path, ("file", entry.path, *entry.where[2:]))
            elif entry.reason:
                yield Picture(printable(entry.path) or ".", (MISSING, entry.reason))


def whole(where: Where, source: PictureSource) -> Where:
    """Return a place with the path or URI in full."""
    if where[0] in (MISSING, PACKED):
        return where
    return (where[0], _in_full(str(where[1]), source.root), *where[2:])


def _of_file(source: PictureSource, path: str, where: Where) -> Iterator[Picture]:
    if not path.lower().endswith(".parquet"):
        yield Picture(printable(path), where)
        return
    try:
        yield from _of_table(source, path)
    except DataError as error:  # one broken table among many files
        yield Picture(printable(path), (MISSING, str(error)))


def _of_table(source: PictureSource, path: str) -> Iterator[Picture]:
    """Yield the pictures of a table at a path in the source's root. It names them relative to its own folder."""
    folder = path.rpartition("/")[0]
    above = f"{folder}/" if folder else ""
    for row, where in rows_in_order(_in_full(path, source.root)):
        name = printable(row if where and where[0] == "file" else above + row)
        if not where:
            yield Picture(name, (MISSING, "the row has no path"))
        elif where[0] != "file":
            yield Picture(name, (where[0], path, *where[2:]))
        else:
            place = str(where[1])
            if is_uri(place) and has_password(place):  # the listing would keep it
                yield Picture(name, (MISSING, WITH_PASSWORD))
                continue
            is_whole = is_uri(place) or place.startswith("/")
            yield Picture(name, ("file", place if is_whole else above + place, *where[2:]))


def _of_dataset(dataset: PackedDataset) -> Iterator[Picture]:
    """Yield the rows of all splits, in the order of the arrays. A version from before there were rows has no names."""
    if (dataset.path / ROWS).exists():
        row_of = dict.fromkeys(SPLITS, 0)
        columns = ["source", "sha256", "split"]
        assert set(columns) <= set(SCHEMA.names)
        for batch in pq.ParquetFile(dataset.path / ROWS).iter_batches(ROWS_AT_ONCE, columns=columns):
            values: list[list[Any]] = [column.to_pylist() for column in batch.columns]
            for name, sha256, split in zip(*values, strict=True):
                yield Picture(name, (PACKED, split, row_of[split], sha256))
                row_of[split] += 1
        return
    for split, count in dataset.info.counts.items():
        for row in range(count):
            yield Picture(f"{split}/{row}", (PACKED, split, row, ""))


def _in_full(path: str, root: str) -> str:
    """Return a path that may be relative to a folder, here or in a bucket."""
    if is_uri(path):
        return path
    if is_uri(root):
        return join(root, quote(path))
    return os.path.join(root, path)  # noqa: PTH118 - pathlib takes 10 µs, of 220 for a small picture


def _folder_of(address: str) -> str:
    if not is_uri(address):
        return str(Path(address).parent)
    path, mark, query = address.partition("?")
    return path.rpartition("/")[0] + mark + query
