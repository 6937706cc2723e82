"""Small files that all nodes share: in a folder of this machine, or in a bucket. A file is whole or absent.

    place = open_place("uploads")            # $RAYCLS_STORAGE/uploads, else $RAYCLS_HOME/uploads
    place.put("log/1.jsonl", b"…")           # never half written, also after a kill

Callers build paths of digests and random names only. This module knows bytes. It does not know what they mean.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from raycls import home
from raycls.data.files import file_system, join, shown, sync
from raycls.errors import DataError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

READS = 5  # of a file that changes while it is read
ASIDE = ".tmp"  # ends the name of a file that is being written
WHOLE_AT_ONCE = ("s3", "gcs", "abfs")  # file systems where a file appears when its last byte is there


class Found(NamedTuple):
    """A file: the last part of its path, its size in bytes, and its age in seconds."""

    name: str
    size: int
    age: float


class Place(Protocol):
    """A folder, here or in a bucket. Paths are relative to it, with slashes. Each method raises OSError."""

    def put(self, path: str, data: bytes) -> None: ...

    def get(self, path: str) -> bytes: ...

    def exists(self, path: str) -> bool: ...

    def delete(self, path: str) -> None: ...

    def files(self, folder: str, *, below: bool = True) -> list[Found]: ...

    def full(self, path: str) -> str: ...


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Raise DataError, which says what to do, for an OSError of a place. Also a decorator."""
    try:
        yield
    except OSError as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise DataError(
            f"the storage cannot be read or written: {reason}. Look at RAYCLS_STORAGE, or else RAYCLS_HOME, "
            "and try again"
        ) from error


def open_place(folder: str, mode: int = 0o666) -> Place:
    """Return the place of this name on the storage path, or under the home where there is none.

    mode: of new files in a folder of this machine, before the umask. Raises DataError if no installed package knows the
    storage path.
    """
    return place_at(where_is(folder), mode)


def where_is(folder: str) -> str:
    """Return the path or URI of the place of this name."""
    storage = home.shared_storage()
    return join(storage, folder) if storage else str(home.home() / folder)


def place_at(uri: str, mode: int = 0o666) -> Place:
    """Return the place at a path or URI. Raises UsageError if no installed package knows it."""
    from pyarrow.fs import LocalFileSystem

    if "://" not in uri:
        return Folder(Path(uri), mode)
    try:
        filesystem, root = file_system(uri)
    except OSError as error:
        raise DataError(f"{shown(uri)} cannot be opened: {shown(str(error).splitlines()[0])}") from None
    return (
        Folder(Path(root), mode) if isinstance(filesystem, LocalFileSystem) else Bucket(filesystem, root, uri)
    )


class Folder:
    """A folder of this machine, or one that several machines mount. mode: of its files; 0o600 for secrets."""

    def __init__(self, root: Path, mode: int = 0o666):
        self._root, self._mode = root, mode

    def put(self, path: str, data: bytes) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # Hidden: who reads a folder of Parquet leaves out such names.
        aside = target.with_name(f".{uuid.uuid4().hex}{ASIDE}")
        try:
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        sync(target.parent)

    def mark(self, path: str) -> tuple[int, ...]:
        """Return numbers that differ after each change of a file, and () where there is none."""
        try:
            status = (self._root / path).stat()
        except FileNotFoundError:
            return ()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def get(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    def delete(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def files(self, folder: str, *, below: bool = True) -> list[Found]:
        """Return all files below a folder, or only its own. Delete what a killed process left an hour ago."""
        found: list[Found] = []
        now = time.time()
        for above, _, names in os.walk(self._root / folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # another process deletes too
                    status = Path(above, name).stat()
                    if not name.endswith(ASIDE):
                        found.append(Found(name, status.st_size, now - status.st_mtime))
                    elif now - status.st_mtime > 3600:
                        Path(above, name).unlink()
            if not below:
                break
        return found

    def full(self, path: str) -> str:
        return str(self._root / path)


class Bucket:
    """A folder of any other file system that pyarrow or fsspec knows."""

    def __init__(self, filesystem: FileSystem, root: str, uri: str):
        self._filesystem, self._root, self._uri = filesystem, root.rstrip("/"), uri

    def put(self, path: str, data: bytes) -> None:
        target = f"{self._root}/{path}"
        if self._filesystem.type_name in WHOLE_AT_ONCE:
            try:
                self._write(target, data)
            except OSError:
                bucket = target.partition("/")[0]
                if self._filesystem.get_file_info(bucket).type.name != "NotFound":
                    raise
                # Where the URI has no allow_bucket_creation, the error of pyarrow names it.
                self._filesystem.create_dir(bucket)
                self._write(target, data)
            return
        above = target.rpartition("/")[0]
        self._filesystem.create_dir(above, recursive=True)
        aside = f"{above}/.{uuid.uuid4().hex}{ASIDE}"
        self._write(aside, data)
        self._filesystem.move(aside, target)

    def _write(self, target: str, data: bytes) -> None:
        # The bytes as they are: pyarrow would compress what is called .gz.
        with self._filesystem.open_output_stream(target, compression=None) as file:
            file.write(data)

    def get(self, path: str) -> bytes:
        """Return a file. pyarrow asks for as many bytes as it had: one that has grown meanwhile would lack its end."""
        for _ in range(READS):
            with self._filesystem.open_input_stream(f"{self._root}/{path}", compression=None) as file:
                data: bytes = file.read()
            if self._info(path).size == len(data):
                return data
        raise OSError(f"{path} changes faster than it can be read")

    def exists(self, path: str) -> bool:
        return self._info(path).is_file

    def _info(self, path: str) -> FileInfo:
        return self._filesystem.get_file_info(f"{self._root}/{path}")

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.delete_file(f"{self._root}/{path}")

    def files(self, folder: str, *, below: bool = True) -> list[Found]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{self._root}/{folder}", recursive=below, allow_not_found=True)
        now = time.time()
        return [
            Found(entry.base_name, entry.size or 0, now - (entry.mtime_ns or now * 1e9) / 1e9)
            for entry in self._filesystem.get_file_info(selector)
            if entry.is_file and not entry.base_name.endswith(ASIDE)
        ]

    def full(self, path: str) -> str:
        return join(self._uri, path)
