"""The decoded images of an unfinished preparation, on disk, so that a killed preparation goes on where it was.

    parts = Parts(folder, size=64, resize="crop")
    parts.add(chunk)          # from raycls/data/ingest.py
    parts.flush()
    parts.finished(where)     # whether an image is there already

A part is a file of pixels and a file of rows, which is written last. For an encoded version the pixels are losslessly
encoded, so that they take a third of the disk. This module knows files and arrays. It does not know where images come
from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycls.data.codec import decode_all
from raycls.data.listing import Where
from raycls.data.manifest import write_table
from raycls.data.packed import Store
from raycls.data.pixels import Pixels
from raycls.data.transforms import Resize

PART_BYTES = 32 << 20  # pixels kept in memory before a part is written
PART_SECONDS = 20  # after which a part is written whatever it holds
SCHEMA = pa.schema(
    {
        "where": pa.string(),
        "sha256": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
        "phash": pa.uint64(),
        "noticed": pa.string(),
        "kind": pa.string(),  # why there are no pixels: ignored or unreadable; "" where there are
        "reason": pa.string(),
        "row": pa.int64(),  # of the pixels in the part; -1 for none
    }
)


@dataclass(frozen=True)
class Chunk:
    """Some decoded images: rows with the columns of SCHEMA, and for those that have pixels uint8 N×S×S×3, or files."""

    rows: pa.Table
    images: np.ndarray | pa.BinaryArray


class Parts:
    def __init__(self, folder: Path, size: int, resize: Resize, store: Store = "packed"):
        """Open the parts in a folder. Delete those that were made with another size, resize mode or store."""
        self.folder, self.size, self.store = folder, size, store
        self._suffix = ".npy" if store == "packed" else ".arrow"
        settings = json.dumps({"size": size, "resize": resize, "store": store})
        if not (folder / "settings.json").exists() or (folder / "settings.json").read_text() != settings:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "settings.json").write_text(settings)
        self._names = [
            path.stem for path in sorted(folder.glob("*.parquet")) if path.with_suffix(self._suffix).exists()
        ]
        self._tables = [pq.read_table(folder / f"{name}.parquet") for name in self._names]
        # What could not be read is tried again: its permissions or the network may be better now.
        self._finished = {
            where
            for table in self._tables
            for where, kind in zip(table["where"].to_pylist(), table["kind"].to_pylist(), strict=True)
            if kind != "unreadable"
        }
        self._waiting: list[Chunk] = []
        self._written = time.monotonic()

    def finished(self, where: Where) -> bool:
        """Return whether this image was decoded already."""
        return bool(self._finished) and key(where) in self._finished

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk, and write those that wait if they are large or old. Raises OSError if the disk is full."""
        self._waiting.append(chunk)
        size = sum(waiting.images.nbytes for waiting in self._waiting)
        if size > PART_BYTES or time.monotonic() - self._written > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the chunks that wait as one part."""
        if not self._waiting:
            return
        images = [chunk.images for chunk in self._waiting]
        offsets = np.cumsum([0, *(len(chunk.images) for chunk in self._waiting[:-1])])
        tables = []
        for chunk, offset in zip(self._waiting, offsets, strict=True):
            row = chunk.rows["row"].to_numpy()
            moved = pa.array(np.where(row < 0, -1, row + offset))
            tables.append(chunk.rows.set_column(SCHEMA.get_field_index("row"), "row", moved))
        table = pa.concat_tables(tables)
        name = f"{int(self._names[-1]) + 1 if self._names else 0:06}"
        if self.store == "packed":
            _save(self.folder / f"{name}.npy", lambda file: np.save(file, np.concatenate(images)))
        else:
            _save(self.folder / f"{name}.arrow", lambda file: _write_files(file, images))
        _save(self.folder / f"{name}.parquet", lambda path: write_table(table, path))
        self._tables.append(table)
        self._names.append(name)
        self._waiting, self._written = [], time.monotonic()

    def rows(self, wheres: Sequence[Where]) -> pa.Table:
        """Return the rows of these images, in their order, with the columns of SCHEMA and `part`, a number."""
        tables = [
            table.append_column("part", pa.array(np.full(len(table), number)))
            for number, table in enumerate(self._tables)
        ]
        everything = pa.concat_tables(
            tables or [SCHEMA.empty_table().append_column("part", pa.array([], pa.int64()))]
        )
        place = {where: row for row, where in enumerate(everything["where"].to_pylist())}
        return everything.take(pa.array([place[key(where)] for where in wheres], pa.int64()))

    def pixels(self, part: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return images by the number of their part and their row in it: uint8 N×S×S×3."""
        images = np.empty((len(part), self.size, self.size, 3), dtype=np.uint8)
        self.copy(part, row, images, np.arange(len(part)))
        return images

    def remove(self) -> None:
        """Delete all of it. What a killed process left of that is deleted by the next one."""
        aside = self.folder.with_name(f"{self.folder.name}.removed")
        self.folder.rename(aside)
        shutil.rmtree(aside)

    def copy(self, part: np.ndarray, row: np.ndarray, out: np.ndarray, to: np.ndarray) -> None:
        """Copy images into out[to], one part after another."""
        if not len(part):
            return
        order = np.lexsort((row, part))
        numbers, first = np.unique(part[order], return_index=True)
        for number, chosen in zip(numbers, np.split(order, first[1:]), strict=True):
            images = self._images(number)
            mine = row[chosen]
            out[to[chosen]] = (
                images[mine]
                if isinstance(images, np.ndarray)
                else decode_all(images.take(pa.array(mine)).to_pylist(), self.size)
            )

    def files(self, part: np.ndarray, row: np.ndarray) -> list[bytes | None]:
        """Return the lossless files of images; None for each where the parts have pixels."""
        found: list[bytes | None] = [None] * len(part)
        if self.store == "encoded":
            for number in np.unique(part):
                images = self._images(number)
                for position in np.flatnonzero(part == number):
                    found[position] = images[int(row[position])].as_py()
        return found

    def _images(self, part: int) -> np.ndarray | pa.BinaryArray:
        path = self.folder / f"{self._names[part]}{self._suffix}"
        if self.store == "packed":
            return np.load(path, mmap_mode="r")
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)


class PartPixels(Pixels):
    """The decoded images of a preparation, by their parts and rows."""

    def __init__(self, parts: Parts, part: np.ndarray, row: np.ndarray):
        self._parts, self._part, self._row = parts, part, row

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return self._parts.pixels(self._part[positions], self._row[positions])

    def copy(self, positions: np.ndarray, out: np.ndarray, to: np.ndarray) -> None:
        self._parts.copy(self._part[positions], self._row[positions], out, to)

    def files(self, positions: np.ndarray, lossy: bool) -> list[bytes | None]:
        if lossy:
            return [None] * len(positions)
        return self._parts.files(self._part[positions], self._row[positions])


def key(where: Where) -> str:
    """Return a digest that stands for the place of an image's bytes, and tells no secret of a URI."""
    return hashlib.sha256(json.dumps(where).encode()).hexdigest()


def _write_files(file: BinaryIO, images: list[pa.BinaryArray]) -> None:
    batch = pa.record_batch({"image": pa.concat_arrays(images)})
    with pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _save(path: Path, write) -> None:
    """Write a file so that it is whole or absent, also if the machine loses power."""
    aside = path.with_name(f".{path.name}")
    with aside.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
