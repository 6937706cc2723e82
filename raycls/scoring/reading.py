"""The contents of a part's pictures, in order: encoded bytes, the pixels of a dataset version, or why there are none.

    with Reading(source) as reading:
        for content in reading.contents(pictures): …

Files of this machine are read when they are wanted: the kernel reads ahead, and a thread for it would take time from
the decoding. Files that come over a network are read several at a time, ahead of the decoding and within a limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import groupby

import numpy as np
import pyarrow as pa

from raycls.data.files import is_uri
from raycls.data.listing import Where
from raycls.data.packed import PixelStore
from raycls.data.readers import SEQUENTIAL, Data, container_of, read_all, size_of
from raycls.data.sources.pictures import MISSING, PACKED, Picture, PictureSource, whole
from raycls.data.versions import on_this_node

Content = Data | np.ndarray  # bytes, an OSError, or uint8 S×S×3

THREADS = 16  # requests to a bucket at a time: each waits for the network, mostly
AHEAD = 64  # files that may wait for the decoding
AHEAD_BYTES = 128 << 20
UNKNOWN = 8 << 20  # bytes that the first files of unknown size are taken to have: 16 are read at a time
ROWS = 64  # of a dataset version read at a time


class Reading:
    """Reads the pictures of a source. Close it, or use it in a `with` block."""

    def __init__(self, source: PictureSource):
        self._source = source
        self._pool = ThreadPoolExecutor(THREADS)

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def contents(self, pictures: Sequence[Picture]) -> Iterator[Content]:
        """Yield the content of each picture, in order. One that cannot be read yields an OSError with the reason."""
        everywhere = [whole(picture.where, self._source) for picture in pictures]
        for (kind, _), group in groupby(everywhere, key=_together):
            wheres = list(group)
            if kind == MISSING:
                yield from (OSError(str(reason)) for _, reason in wheres)
            elif kind == PACKED:
                yield from self._of_dataset(wheres)
            elif kind == "remote":
                yield from self._ahead(wheres)
            else:
                yield from _read(wheres)

    def _ahead(self, wheres: Sequence[Where]) -> Iterator[Data]:
        """Yield what files hold that come over a network.

        One of unknown size is taken to be as large as the largest of the last ones, until it is read.
        """
        waiting: deque[tuple[int, Future[Data]]] = deque()
        last = deque([UNKNOWN], maxlen=THREADS)

        def held() -> int:
            guess = max(last)
            return sum(_length(data.result()) if data.done() else size or guess for size, data in waiting)

        for where in wheres:
            size = size_of(where)
            while waiting and (len(waiting) >= AHEAD or held() + (size or max(last)) > AHEAD_BYTES):
                _, future = waiting.popleft()
                last.append(_length(future.result()))
                yield future.result()
            waiting.append((size, self._pool.submit(_one, where)))
        for _, future in waiting:
            yield future.result()

    def _of_dataset(self, wheres: Sequence[Where]) -> Iterator[np.ndarray]:
        """Yield rows of splits. Those that follow one another are read together: an encoded version decodes a batch."""
        for split, group in groupby(wheres, key=lambda where: str(where[1])):
            rows = np.array([where[2] for where in group], np.int64)
            for start in range(0, len(rows), ROWS):
                yield from self._images(split)[rows[start : start + ROWS]]

    @cache  # noqa: B019 - a process has one Reading
    def _images(self, split: str) -> PixelStore:
        assert self._source.dataset
        return on_this_node(self._source.dataset).images(split)


def _together(where: Where) -> tuple[str, Where]:
    """Return what is the same for pictures that are read together: of tables, so that a broken one ends at its end."""
    return _kind(where), container_of(where) if where[0] in SEQUENTIAL else ()


def _kind(where: Where) -> str:
    kind, *rest = where
    if kind in (MISSING, PACKED):
        return str(kind)
    return "remote" if kind == "file" and is_uri(str(rest[0])) else "read"


def _read(wheres: Sequence[Where]) -> Iterator[Data]:
    """Yield what `read_all` does. A container that breaks is the reason of all its pictures that are left.

    It may be no table any more, or one with other columns: pyarrow has many errors for that.
    """
    read = 0
    try:
        for _, data in read_all(list(wheres)):
            yield data
            read += 1
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        reason = error if isinstance(error, OSError) else OSError(f"the table cannot be read: {_line(error)}")
        yield from (reason for _ in wheres[read:])


def _length(data: Data) -> int:
    return len(data) if isinstance(data, bytes) else 0


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _one(where: Where) -> Data:
    (data,) = _read([where])
    return data
