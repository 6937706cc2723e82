"""Reads the bytes of images, wherever a listing says that they are.

    for where, data in read_all([("file", "/photos/cat/1.jpg", 2048, 1767225600000000000)]): …

Nothing that is read is unpickled or run. The tasks that decode images call this module; it knows no pixels.
"""

from __future__ import annotations

import base64
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from raycls.data.files import is_uri, open_file, shown
from raycls.data.listing import Where
from raycls.data.text_tables import text_blocks

MAX_FILE_BYTES = 200 << 20  # a larger file is probably a video
# Containers that are read from their start, so that one task reads all of one.
SEQUENTIAL = ("packed-tar", "parquet", "arrow", "text")
ROWS = 32  # of a Parquet file read at a time
TOO_LARGE = f"larger than {MAX_FILE_BYTES >> 20} MB"
CUT_SHORT = "the table is cut short"

Data = bytes | OSError
# What reading a damaged archive raises, of whatever compression.
BROKEN = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error)


def read_all(wheres: list[Where]) -> Iterator[tuple[Where, Data]]:
    """Yield the bytes of each encoded image with its place, or the error that says why they cannot be read.

    Images of a container that is read from its start come in the order of the container.
    """
    for container, members in groupby(wheres, container_of):
        inside = list(members)
        if container[0] in SEQUENTIAL:
            inside.sort(key=lambda where: int(where[4]))
        try:
            yield from zip(inside, READERS[str(container[0])](container, inside), strict=True)
        except BROKEN as error:  # the container cannot be opened
            raise OSError(shown(f"{container[1]}: {error}")) from error


def header_of(where: Where) -> BinaryIO:
    """Return the file of an image, or its bytes, to read its header. Raises OSError."""
    if where[0] == "file" and is_local(where):
        path = Path(str(where[1]))
        if not stat.S_ISREG(path.stat().st_mode):  # to open a FIFO could wait for ever
            raise OSError("not a regular file")
        return path.open("rb")
    ((_, data),) = read_all([where])
    if isinstance(data, OSError):
        raise data
    return io.BytesIO(data)


def container_of(where: Where) -> Where:
    """Return what must be opened for an image. Images of one container are read one after another."""
    parts = {"parquet": 3, "arrow": 3, "text": 3, "zip": 2, "tar": 2, "packed-tar": 2}
    return where[: parts.get(str(where[0]), len(where))]


def is_local(where: Where) -> bool:
    """Return whether only this machine has the file."""
    return not is_uri(str(where[1]))


def size_of(where: Where) -> int:
    """Return the size of an image in bytes, or 0 where the listing does not know it."""
    place = SIZE_AT.get(str(where[0]))
    return int(where[place]) if place else 0


def name_of(where: Where) -> str:
    """Return the file name of an image, or "" where it has none."""
    place = {"file": 1, **dict.fromkeys(("zip", "tar", "packed-tar"), 2)}.get(str(where[0]))
    return str(where[place]).partition("?")[0] if place else ""


def _file(container: Where, members: list[Where]) -> Iterator[Data]:
    """Read ("file", path or URI, size, time of change). The last two tell a changed file from the former one."""
    path = str(container[1])
    for _ in members:
        try:
            yield _whole(path)
        except OSError as error:
            yield error


def _whole(path: str) -> bytes:
    if is_uri(path):
        with open_file(path) as file:
            return _limited(file.read(MAX_FILE_BYTES + 1))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # to open a FIFO could wait for ever
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise OSError(TOO_LARGE)
        return file.read()


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise OSError(TOO_LARGE)
    return data


def _zip(container: Where, members: list[Where]) -> Iterator[Data]:
    """Read ("zip", path, name, size, CRC)."""
    with open_file(str(container[1])) as file, zipfile.ZipFile(file) as archive:
        for _, _, name, size, _ in members:
            try:
                if int(size) > MAX_FILE_BYTES:
                    raise OSError(TOO_LARGE)
                yield archive.read(str(name))
            except (*BROKEN, KeyError, NotImplementedError, RuntimeError) as error:
                yield OSError(f"damaged in the archive: {error}")


def _tar(container: Where, members: list[Where]) -> Iterator[Data]:
    """Read ("tar", path, name, size, offset of the bytes, time of change)."""
    with open_file(str(container[1])) as file:
        for _, _, _, size, offset, _ in members:
            if int(size) > MAX_FILE_BYTES:
                yield OSError(TOO_LARGE)
                continue
            file.seek(int(offset))
            data = file.read(int(size))
            yield data if len(data) == size else OSError("the archive is cut short")


def _packed_tar(container: Where, members: list[Where]) -> Iterator[Data]:
    """Read ("packed-tar", path, name, size, place in the archive, time of change), compressed as a whole."""
    waiting = {int(member[4]) for member in members}
    found: dict[int, Data] = {}
    upcoming = iter(members)
    with open_file(str(container[1])) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
        for index, member in enumerate(archive):
            if index in waiting:
                content = archive.extractfile(member) if member.size <= MAX_FILE_BYTES else None
                found[index] = content.read() if content else OSError(TOO_LARGE)
                next(upcoming)
                yield found.pop(index)
    for _ in upcoming:
        yield OSError("the archive is cut short")


def _parquet(container: Where, members: list[Where]) -> Iterator[Data]:
    """Read ("parquet", path, row group, column, row in the group). The column holds bytes, or a record with `bytes`."""
    import pyarrow.parquet as pq

    _, path, group = container
    column = str(members[0][3])
    wanted = [int(member[4]) for member in members]
    first = 0
    with open_file(str(path)) as file:
        # Otherwise pyarrow would hold the whole row group.
        opened = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        batches = opened.iter_batches(ROWS, row_groups=[int(group)], columns=[column])
        for batch in batches:
            values = batch.column(0)
            while wanted and wanted[0] < first + len(values):
                yield _bytes_of(values[wanted.pop(0) - first].as_py())
            first += len(values)
            if not wanted:
                return
    yield from (OSError(CUT_SHORT) for _ in wanted)


def _arrow(container: Where, members: list[Where]) -> Iterator[Data]:
    """Read ("arrow", path, batch, column, row in the batch) from an Arrow stream, which `datasets` saves."""
    import pyarrow as pa

    _, path, number = container
    column = str(members[0][3])
    with pa.memory_map(str(path)) as file:
        for index, batch in enumerate(pa.ipc.open_stream(file)):
            if index == number:
                values = batch.column(column)
                rows = (int(member[4]) for member in members)
                yield from (
                    _bytes_of(values[row].as_py()) if row < len(values) else OSError(CUT_SHORT)
                    for row in rows
                )
                return
    yield from (OSError(CUT_SHORT) for _ in members)


def _bytes_of(value: object) -> Data:
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else OSError("the row has no bytes")


def _text(container: Where, members: list[Where]) -> Iterator[Data]:
    """Read ("text", path, 0, column, row, time of change), a CSV or JSON lines. The column holds base64."""
    column = str(members[0][3])
    rows = (text for block in text_blocks(str(container[1]), (column,)) for text in block[column])
    wanted = {int(member[4]) for member in members}
    for row, text in enumerate(rows):
        if row in wanted:
            wanted.remove(row)
            try:
                yield base64.b64decode(text or "", validate=True)
            except (ValueError, TypeError) as error:  # a number, or letters that are none of base64's
                yield OSError(f"no base64: {error}")
        if not wanted:
            return
    yield from (OSError(CUT_SHORT) for _ in wanted)


READERS: dict[str, Callable[[Where, list[Where]], Iterator[Data]]] = {
    "file": _file,
    "zip": _zip,
    "tar": _tar,
    "packed-tar": _packed_tar,
    "parquet": _parquet,
    "arrow": _arrow,
    "text": _text,
}
SIZE_AT = {"file": 2, "zip": 3, "tar": 3, "packed-tar": 3}  # where the size is in a Where
