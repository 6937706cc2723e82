"""Opens files of this machine and of buckets alike.

    with open_file("s3://bucket/pets.zip") as file: …
    for path, size, changed_ns in files_below("s3://bucket/pets"): …

A URI needs a file system that pyarrow has (s3, gs, abfs, hdfs) or fsspec has with the package for it installed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote

from raycls.errors import UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


PIECE = 16 << 20  # bytes that are copied at once
BUCKETS = ("s3", "gs", "gcs")  # URIs that name a bucket and a key


def is_uri(source: str) -> bool:
    return "://" in source


def shown(source: str) -> str:
    """Return a source for messages and descriptions: without what a URI may hold that is secret.

    That is the name and the password, and each value after the question mark: some file systems take a password there.
    """
    return re.sub(
        r"(://[^\s?]*\?)(\S+)", lambda found: found[1] + _without_values(found[2]), without_password(source)
    )


def without_password(source: str) -> str:
    """Return a source without the name and the password that a URI may hold, for what must open it again."""
    return re.sub(r"(://)([^/?#\s]*|[^@\s]*:[^@\s]*)@", r"\1", source)


def has_password(uri: str) -> bool:
    """Return whether a URI holds a password. A name alone is one in a web address; elsewhere it is a container."""
    scheme, _, rest = uri.partition("://")
    name, mark, _ = re.split(r"[/?#\s]", rest, maxsplit=1)[0].rpartition("@")
    if mark and (":" in name or scheme in ("http", "https")):
        return True
    # A slash in the password, which should be %2F; a port is followed by a slash too.
    return re.match(r"[^/?#\s:]*:(?!\d+/)[^@\s]*@", rest) is not None


def _without_values(query: str) -> str:
    """Return the names of a query alone, and the marks of the sentence that may follow it."""
    end = len(query.rstrip(":;,.'\")]}>"))
    names = [name + mark for name, mark, _ in (each.partition("=") for each in query[:end].split("&"))]
    return "&".join(f"{name}…" if name.endswith("=") else "…" for name in names if name) + query[end:]


def file_system(uri: str) -> tuple[FileSystem, str]:
    """Return the file system of a URI, and the path in it. Raises UsageError if no installed package knows it."""
    import pyarrow as pa
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        return FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = shown(str(error).splitlines()[0])
    try:
        import fsspec

        opened, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"{shown(uri)} cannot be opened: {reason}; {shown(str(error))}") from None
    return PyFileSystem(FSSpecHandler(opened)), path


def copy_files(
    source: str, target: str, *, of: FileSystem | None = None, to: FileSystem | None = None
) -> None:
    """Copy a file, or all files of a folder. of, to: the file systems of source and target; None: this machine's.

    Each piece is a request. With pyarrow's 1 MiB, 100 MB from a stand-in of S3 took 6.1 s, and 0.7 s with 16 MiB.
    Raises OSError.
    """
    from pyarrow import fs

    here = fs.LocalFileSystem()
    fs.copy_files(
        source, target, source_filesystem=of or here, destination_filesystem=to or here, chunk_size=PIECE
    )


def open_file(path: str) -> BinaryIO:
    """Open a file by its path or URI, for reading at any place. Raises OSError."""
    if not is_uri(path):
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise OSError("not a regular file")
        return Path(path).open("rb")
    scheme, _, rest = path.partition("://")
    if scheme in BUCKETS:
        address, mark, query = rest.partition("?")
        bucket, _, inside = address.partition("/")
        filesystem, root = _bucket(f"{scheme}://{bucket}{mark}{query}")
        return filesystem.open_input_file(f"{root}/{unquote(inside)}")
    filesystem, inside = file_system(path)
    return filesystem.open_input_file(inside)


@lru_cache(maxsize=16)
def _bucket(uri: str) -> tuple[FileSystem, str]:
    """Return what `file_system` does. A client for each file would look up and connect to the bucket for each."""
    return file_system(uri)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder, so that they outlive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_below(uri: str) -> Iterator[tuple[str, int, int]]:
    """Yield path inside the folder, size in bytes and time of change in ns of all files below a URI."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, root = file_system(uri)
    for entry in filesystem.get_file_info(FileSelector(root, recursive=True)):
        if entry.type == FileType.File:
            yield entry.path[len(root.rstrip("/")) + 1 :], entry.size, entry.mtime_ns or 0


def files_in_order(uri: str) -> Iterator[tuple[str, int, int]]:
    """Yield what `files_below` does, sorted by name in each folder, its own files first.

    One folder at a time is listed, so that the names of all files never are in memory together.
    """
    from pyarrow.fs import FileSelector, FileType

    filesystem, root = file_system(uri)
    waiting = [root.rstrip("/")]
    while waiting:
        found = sorted(filesystem.get_file_info(FileSelector(waiting.pop())), key=lambda entry: entry.path)
        for entry in found:
            if entry.type == FileType.File:
                yield entry.path[len(root.rstrip("/")) + 1 :], entry.size or 0, entry.mtime_ns or 0
        waiting += [entry.path for entry in reversed(found) if entry.type == FileType.Directory]


def changed_ns(path: str) -> int:
    """Return when a file was changed, in ns, or 0 where its file system does not say it."""
    if not is_uri(path):
        return Path(path).stat().st_mtime_ns
    filesystem, inside = file_system(path)
    return filesystem.get_file_info(inside).mtime_ns or 0


def exists(path: str) -> str:
    """Return `file`, `folder` or `nothing`."""
    if not is_uri(path):
        return "folder" if Path(path).is_dir() else "file" if Path(path).exists() else "nothing"
    from pyarrow.fs import FileType

    filesystem, inside = file_system(path)
    kind = filesystem.get_file_info(inside).type
    return {FileType.File: "file", FileType.Directory: "folder"}.get(kind, "nothing")


def join(uri: str, inside: str) -> str:
    """Return the URI of a file below a folder. What follows a question mark says how to reach the file system."""
    address, mark, query = uri.partition("?")
    return f"{address.rstrip('/')}/{inside}{mark}{query}"
