"""The files in zip and tar archives.

    tree = zip_tree("photos.zip")      tar_tree("s3://bucket/photos.tar")

The archive is not unpacked: each image is read from its place in it. A compressed tar can only be read from its start,
so one process reads all of it.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from raycls.data.files import changed_ns, open_file, shown
from raycls.data.listing import Where
from raycls.data.readers import BROKEN
from raycls.data.sources.tree import Tree
from raycls.errors import DataError

ZIPS = (".zip",)
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def archive_tree(path: str) -> Tree:
    """Return the files of an archive. Raises DataError if it is damaged."""
    return zip_tree(path) if path.partition("?")[0].lower().endswith(ZIPS) else tar_tree(path)


def zip_tree(path: str) -> Tree:
    tree = Tree()
    with _sound(path), open_file(path) as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.strip("/")
            if member.is_dir():
                tree.add_folder(name)
            elif member.flag_bits & 1:
                tree.leave_out(name, "unreadable", "encrypted")
            else:
                tree.add(name, ("zip", path, member.filename, member.file_size, member.CRC))
    return tree


def tar_tree(path: str) -> Tree:
    tree = Tree()
    for member, where in tar_members(path):
        name = member.name.removeprefix("./").strip("/")
        if member.isdir():
            tree.add_folder(name)
        elif member.isreg():
            tree.add(name, where)
        else:  # a link may lead out of the archive
            tree.leave_out(name, "unreadable", "a link or a special file in an archive")
    return tree


def tar_members(path: str) -> Iterator[tuple[tarfile.TarInfo, Where]]:
    """Yield each member of a tar with the place of its bytes. Raises DataError if the tar is damaged."""
    changed = changed_ns(path)
    with _sound(path), open_file(path) as file, tarfile.open(fileobj=file) as archive:
        compressed = type(archive.fileobj).__name__ in ("GzipFile", "BZ2File", "LZMAFile", "ZstdFile")
        for index, member in enumerate(archive):
            if compressed:
                yield member, ("packed-tar", path, member.name, member.size, index, changed)
            else:
                yield member, ("tar", path, member.name, member.size, member.offset_data, changed)


@contextmanager
def _sound(path: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0].rstrip(":"))
        raise DataError(f"{shown(path)} cannot be read as an archive: {reason}") from error
