"""The files of an encoded split: Parquet shards of about 128 MB, in row groups of about 4 MB, which are called blocks.

    with ShardWriter(folder, labels, lossy=True) as writer:
        writer.add(encoded)                     # bytes of images, in the order of the labels
    shape = writer.shape

    shards = Shards(folder, shape, len(labels), "pets@1", "s3://bucket/raycls/datasets/pets/1/train")
    shards.block(7)[0].as_py()                  # bytes of the first image of the eighth block

A block is what one request reads: from the local file if it is there, else from the same file on the storage path, by
its range. Every block but the last has the same number of images, and every shard but the last the same number of
blocks, so an image's place follows from its row. This module knows bytes. It decodes no image.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycls.data.files import file_system, join, shown
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
    """Reads the shards of a split of `count` images. Threads may share one.

    away: path or URI of the split's folder on the storage path, or None. reference: the dataset's, for messages.
    """

    def __init__(self, folder: Path, shape: ShardShape, count: int, reference: str, away: str | None):
        self.shape, self.count, self._folder = shape, count, folder
        self._reference, self._away = reference, away
        self._footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)  # a lock for each shard

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return -(-self.count // self.shape.block)

    def check(self) -> None:
        """Compare the footer of each shard on this machine with the shape. Raises DataError for one that is missing.

        A shard that the storage path may have is not looked for.
        """
        for number in range(-(-self.count // self.shape.shard)):
            if self._away is None or (self._folder / shard_name(number)).exists():
                self._opened(number)

    def block(self, number: int) -> pa.BinaryArray:
        """Return the encoded images of a block. Raises DataError if it cannot be read, or if a byte has changed."""
        shard, group = divmod(number, self.shape.shard // self.shape.block)
        file = self._opened(shard)
        try:
            table = file.read_row_group(group, columns=["image"], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(shard, error) from error
        finally:
            file.close(force=True)
        found = table["image"].combine_chunks()
        if len(found) != min(self.shape.block, self.count - number * self.shape.block):
            raise self._damaged(shard, f"its row group {group} has {len(found)} images")
        return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found

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
        try:
            source = self._source(shard_name(number))
            file = pq.ParquetFile(source, metadata=footer, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(number, error) from error
        rows = min(self.shape.shard, self.count - number * self.shape.shard)
        if file.metadata.num_rows != rows:
            file.close(force=True)
            raise self._damaged(number, f"it has {file.metadata.num_rows} images, not {rows}")
        return file

    def _source(self, name: str) -> Any:
        path = self._folder / name
        if self._away is None or path.exists():
            return str(path)
        filesystem, inside = file_system(join(self._away, name))
        return filesystem.open_input_file(inside)

    def _damaged(self, number: int, reason: object) -> DataError:
        name = shard_name(number)
        here = self._away is None or (self._folder / name).exists()
        where = str(self._folder / name) if here else shown(join(self._away or "", name))
        said = shown((str(reason).splitlines() or [type(reason).__name__])[0])
        remedy = (
            f"remove the version with `raycls data remove {self._reference} --force` and prepare or pull it again"
            if here
            else f"look at RAYCLS_STORAGE, and push {self._reference} again where it is whole"
        )
        return DataError(f"dataset {self._reference}: {where} cannot be read: {said}; {remedy}")
