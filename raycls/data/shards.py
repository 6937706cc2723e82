"""The files of an encoded split: Parquet shards of about 128 MB, in row groups of about 4 MB, which are called blocks.

    with ShardWriter(folder, labels, lossy=True) as writer:
        writer.add(encoded)                     # bytes of images, in the order of the labels
    shape = writer.shape

    shards = Shards(folder, shape, labels, "pets@1", "s3://bucket/raycls/datasets/pets/1/train")
    shards.block(7)[0].as_py()                  # bytes of the first image of the eighth block

A block is what one request reads: from the local file if it is there, else from the same file on the storage path, by
its range. Every block but the last has the same number of images, and every shard but the last the same number of
blocks, so an image's place follows from its row. This module knows bytes. It decodes no image.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycls.data.away import Away, patiently
from raycls.data.files import shown
from raycls.errors import DataError

SHARD_BYTES, BLOCK_BYTES = 128 << 20, 4 << 20
SCHEMA = pa.schema({"image": pa.binary(), "label": pa.int32()})
FOOTERS = 256  # that a reader keeps


class ShardShape(NamedTuple):
    """How many images a block has, and how many a shard: a multiple of that."""

    block: int
    shard: int


def shard_name(number: int) -> str:
    return f"shard-{number:05}.parquet"


class ShardWriter:
    """Writes the shards of a split, in order. The sizes of the first images that are added decide `shape`."""

    def __init__(self, folder: Path, labels: np.ndarray):
        self.shape = ShardShape(1, 1)
        self._folder, self._labels = folder, labels
        self._waiting: list[bytes] = []
        self._written = 0
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        self._folder.mkdir(exist_ok=True)
        return self

    def add(self, encoded: Sequence[bytes]) -> None:
        """Add the next images. Raises OSError if the disk is full."""
        if not self._written and not self._waiting and encoded:
            mean = sum(map(len, encoded)) / len(encoded)
            block = max(1, int(BLOCK_BYTES / mean))
            self.shape = ShardShape(block, block * max(1, round(SHARD_BYTES / (block * mean))))
        self._waiting += encoded
        while len(self._waiting) >= self.shape.block:
            self._write(self.shape.block)

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._waiting:
                self._write(len(self._waiting))
        finally:
            self._close()
        if kind is None:
            assert self._written == len(self._labels), (self._written, len(self._labels))

    def _write(self, count: int) -> None:
        if self._file is None:
            name = shard_name(self._written // self.shape.shard)
            # JPEG and WebP cannot be compressed again. Statistics would hold whole images.
            self._file = pq.ParquetWriter(
                self._folder / name,
                SCHEMA,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        labels = self._labels[self._written : self._written + count].astype(np.int32)
        table = pa.table([pa.array(self._waiting[:count], pa.binary()), labels], schema=SCHEMA)
        self._file.write_table(table, row_group_size=count)
        self._waiting = self._waiting[count:]
        self._written += count
        if self._written % self.shape.shard == 0:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Shards:
    """Reads the shards of a split. Threads may share one.

    labels: of the split, int64 N, in the order of the images: the shards hold them, too. away: path or URI of the
    split's folder on the storage path, or None. confirm: called before the first shard there is read; it raises
    DataError where the storage path has another version. reference: the dataset's, for messages.
    """

    def __init__(
        self,
        folder: Path,
        shape: ShardShape,
        labels: np.ndarray,
        reference: str,
        away: str | None,
        confirm: Callable[[], object] = lambda: None,
    ):
        self.shape, self.count, self._folder = shape, len(labels), folder
        self._labels, self._reference, self._away = labels, reference, Away(away) if away else None
        self._footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self._confirm, self._confirmed, self._confirming = confirm, False, threading.Lock()
        self._lock = threading.Lock()
        self._opening: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)  # a lock for each shard

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return -(-self.count // self.shape.block)

    def block(self, number: int) -> pa.BinaryArray:
        """Return the encoded images of a block.

        Raises DataError if a byte has changed, or if the labels are those of other images, and StorageError if the
        storage path cannot be read after some tries.
        """
        shard, group = divmod(number, self.shape.shard // self.shape.block)
        where = self._away.path(shard_name(shard)) if self._away else ""
        try:
            table = patiently(lambda: self._table(shard, group), where)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(shard, error) from error
        first = number * self.shape.block
        labels = self._labels[first : first + self.shape.block]
        if len(table) != len(labels):
            raise self._damaged(shard, f"its row group {group} has {len(table)} images, not {len(labels)}")
        if not np.array_equal(table["label"], labels):
            raise self._damaged(shard, "its images are not those that the labels on this machine belong to")
        found = table["image"].combine_chunks()
        return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found

    def _table(self, shard: int, group: int) -> pa.Table:
        file = self._opened(shard)
        try:
            return file.read_row_group(group, columns=SCHEMA.names, use_threads=False)
        finally:
            file.close(force=True)

    def _opened(self, number: int) -> pq.ParquetFile:
        """Open a shard. Its footer is read once, and not by several threads that need it at the same time."""
        with self._lock:
            footer, first = self._footers.get(number), self._opening[number]
        if footer:
            return self._open(number, footer)
        with first:
            file = self._open(number, self._footers.get(number))
            with self._lock:
                self._footers[number] = file.metadata
                while len(self._footers) > FOOTERS:
                    self._footers.popitem(last=False)
        return file

    def _open(self, number: int, footer: pq.FileMetaData | None) -> pq.ParquetFile:
        name = shard_name(number)
        source: Any = str(self._folder / name)
        if away := self._away_of(name):
            self._confirm_once()
            source = away.open(name)
        # Buffered before, the columns of a block are one request.
        file = pq.ParquetFile(source, metadata=footer, page_checksum_verification=True, pre_buffer=True)
        rows = min(self.shape.shard, self.count - number * self.shape.shard)
        if file.metadata.num_rows != rows:
            file.close(force=True)
            raise self._damaged(number, f"it has {file.metadata.num_rows} images, not {rows}")
        return file

    def _confirm_once(self) -> None:
        with self._confirming:
            if not self._confirmed:
                self._confirm()
                self._confirmed = True

    def _away_of(self, name: str) -> Away | None:
        """Return the storage path's folder if a shard is to be read from there."""
        return None if (self._folder / name).exists() else self._away

    def _damaged(self, number: int, reason: object) -> DataError:
        name, reference = shard_name(number), self._reference
        path = self._folder / name
        away = self._away_of(name)
        where = shown(away.path(name)) if away else str(path)
        if not away and not path.exists():
            remedy = absent(reference)
        elif away:
            remedy = (
                f"it is missing or damaged there, or another version has replaced this one. Renew it with `raycls data "
                f"remove {reference} --force` and `raycls data pull {reference}`; if that does not help, push "
                f"{reference} again from where it is whole"
            )
        else:
            remedy = f"remove the version with `raycls data remove {reference} --force` and prepare or pull it again"
        return DataError(f"dataset {reference}: {where} cannot be read: {_said(reason)}; {remedy}")


def absent(reference: str) -> str:
    """Return what to do where a shard is not on this machine, and no storage path is known that may have it."""
    return (
        f"set RAYCLS_STORAGE to the storage path that {reference} was pulled from, or remove the version with `raycls "
        f"data remove {reference} --force` and prepare or pull it again"
    )


def _said(reason: object) -> str:
    return shown((str(reason).splitlines() or [type(reason).__name__])[0])
