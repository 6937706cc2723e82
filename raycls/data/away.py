"""Files in a folder on the storage path, opened so that an error of the storage differs from a damaged file.

    away = Away("s3://bucket/raycls/datasets/pets/1/train")
    table = patiently(lambda: pq.read_table(away.open("shard-00000.parquet")), away.folder)

pyarrow raises OSError for a connection that broke, which the next try may mend, and for a changed byte, which stays
changed. Here the first one is Unreachable. This module knows bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from raycls.data.files import file_system, join, shown
from raycls.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

PAUSES = 1.0, 4.0, 15.0  # seconds before each further try
Found = TypeVar("Found")


class Unreachable(OSError):
    """The storage path could not be asked, or did not answer with the bytes."""


class Away:
    """A folder on the storage path, by its path or URI. Threads share its one client."""

    def __init__(self, folder: str):
        self.folder = folder
        self._lock = threading.Lock()
        self._client: tuple[FileSystem, str] | None = None

    def open(self, name: str) -> pa.PythonFile:
        """Open a file for reading at any place. Raises Unreachable, or FileNotFoundError where it is not there."""
        import pyarrow as pa

        filesystem, inside = self._connected()
        return pa.PythonFile(_File(asked(lambda: filesystem.open_input_file(f"{inside}/{name}"))), mode="r")

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file. Raises Unreachable."""
        from pyarrow.fs import FileSelector

        filesystem, inside = self._connected()
        found = asked(lambda: filesystem.get_file_info(FileSelector(inside, allow_not_found=True)))
        return {entry.base_name: entry.size or 0 for entry in found}

    def path(self, name: str) -> str:
        """Return path or URI of a file."""
        return join(self.folder, name)

    def _connected(self) -> tuple[FileSystem, str]:
        with self._lock:
            if self._client is None:
                self._client = asked(lambda: file_system(self.folder))
            return self._client


class _File:
    """What pyarrow needs of a file. It gives an error that is raised here to its caller as it is."""

    def __init__(self, file: Any):
        self._file, self.closed = file, False

    def read(self, count: int = -1) -> bytes:
        return asked(lambda: self._file.read(count))

    def seek(self, *place: int) -> int:
        return self._file.seek(*place)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self.closed = True
        self._file.close()


def asked(ask: Callable[[], Found]) -> Found:
    """Return what a request to the storage returns. Raises Unreachable, or FileNotFoundError."""
    try:
        return ask()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreachable(str(error)) from error


def patiently(ask: Callable[[], Found], where: str) -> Found:
    """Return what `ask` returns, which is tried again after each of PAUSES while the storage is Unreachable.

    Raises StorageError with `where`, a path or URI, after the last try.
    """
    for pause in PAUSES:
        try:
            return ask()
        except Unreachable:
            time.sleep(pause)
    try:
        return ask()
    except Unreachable as error:
        said = shown((str(error).splitlines() or ["no answer"])[0])
        raise StorageError(
            f"the storage path cannot be read: {shown(where)}: {said}; once it can, the same command goes on"
        ) from error
