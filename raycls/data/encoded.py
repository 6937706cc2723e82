"""The images of an encoded split, as if they were an array; and the reading of its blocks ahead of a known order.

    images = open_dataset("pets").images("train")     # where the version is stored encoded
    images[[7, 3]], images[:100], images[5]           # uint8, decoded now

    with Reading(images, batches) as reading:         # batches: rows of each, in the order of their use
        for rows in reading.batches():
            reading.gather(rows, out)                 # from any thread

Only the blocks that were read last are kept, so a split may be larger than memory and disk. This module knows the rows
of one split. It does not know who trains.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from raycls.data.codec import decode, decode_all
from raycls.data.shards import Shards
from raycls.errors import DataError

BATCH = 256  # images that indexing decodes at once
KEPT = 4  # blocks that indexing keeps, for the next rows
READERS = 4  # blocks that are read at the same time
AHEAD = 16  # blocks that are read before a batch needs them


class EncodedImages:
    """N images of S×S pixels. Rows are given as numpy takes them: a number, a slice, numbers, or bool N."""

    def __init__(self, shards: Shards, side: int, reference: str):
        self.shards, self.side, self._reference = shards, side, reference
        self.shape = (shards.count, side, side, 3)
        self._recent: OrderedDict[int, pa.BinaryArray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shards.count

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return uint8 S×S×3 for one row, else uint8 M×S×S×3. Raises DataError if a shard cannot be read."""
        chosen = np.arange(len(self))[rows]
        wanted = np.atleast_1d(chosen)
        found = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        order = np.argsort(wanted, kind="stable")
        for start in range(0, len(wanted), BATCH):  # so that few files are in memory beside the pixels
            part = order[start : start + BATCH]
            found[part] = self._decoded(self.encoded(wanted[part]))
        return found[0] if chosen.ndim == 0 else found

    def encoded(self, rows: np.ndarray) -> list[bytes]:
        """Return the files of images at M rows (int64). Each block is read once, whatever their order."""
        found: list[bytes] = [b""] * len(rows)
        number, place = np.divmod(rows, self.shards.shape.block)
        for position in np.argsort(rows, kind="stable"):
            found[position] = self._block(int(number[position]))[int(place[position])].as_py()
        return found

    def put(self, rows: np.ndarray, blocks: dict[int, pa.BinaryArray], out: np.ndarray) -> None:
        """Decode images at M rows into `out`, uint8 M×S×S×3. blocks: those that the rows are in, by number."""
        number, place = np.divmod(rows, self.shards.shape.block)
        for position in range(len(rows)):
            data = blocks[int(number[position])][int(place[position])].as_py()
            try:
                out[position] = decode(data, self.side)
            except (OSError, ValueError, SyntaxError) as error:
                raise self._undecodable(error) from error

    def _block(self, number: int) -> pa.BinaryArray:
        with self._lock:
            if number not in self._recent:
                self._recent[number] = self.shards.block(number)
                if len(self._recent) > KEPT:
                    self._recent.popitem(last=False)
            self._recent.move_to_end(number)
            return self._recent[number]

    def _decoded(self, encoded: list[bytes]) -> np.ndarray:
        try:
            return decode_all(encoded, self.side)
        except (OSError, ValueError, SyntaxError) as error:
            raise self._undecodable(error) from error

    def _undecodable(self, error: Exception) -> DataError:
        return DataError(
            f"dataset {self._reference} has an image that cannot be decoded ({error}): remove it with `raycls data "
            f"remove {self._reference} --force` and prepare or pull it again"
        )


class Reading:
    """Reads the blocks that batches need, each once if all its uses are close together. Threads read AHEAD of them.

    batches: int64 rows of each batch. The caller takes them from `batches`, and has each gathered once.
    """

    def __init__(self, images: EncodedImages, batches: Sequence[np.ndarray]):
        self._images, self._all = images, batches
        size = images.shards.shape.block
        self._blocks_of = [set(np.unique(rows // size).tolist()) for rows in batches]
        self._uses = Counter(number for blocks in self._blocks_of for number in blocks)
        self._order = list(self._uses)  # a Counter keeps the order of the first use
        self._read: dict[int, Future[pa.BinaryArray]] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="blocks")

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def batches(self) -> Iterator[np.ndarray]:
        """Yield the batches. Before each, ask for the blocks that it needs, and for the AHEAD ones after them."""
        asked = met = 0
        for rows, blocks in zip(self._all, self._blocks_of, strict=True):
            while met < len(self._order) and self._order[met] in blocks:
                met += 1
            while asked < min(met + AHEAD, len(self._order)):
                number = self._order[asked]
                self._read[number] = self._threads.submit(self._images.shards.block, number)
                asked += 1
            yield rows

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Decode a batch into `out`, uint8 B×S×S×3, and let go of the blocks that no later one needs."""
        blocks = np.unique(rows // self._images.shards.shape.block).tolist()
        self._images.put(rows, {number: self._read[number].result() for number in blocks}, out)
        with self._lock:
            self._uses.subtract(blocks)
            for number in blocks:
                if not self._uses[number]:
                    del self._read[number]
