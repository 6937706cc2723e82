"""The pictures in a zip of class folders that a stranger sent.

    with opened_zip(file, UploadLimits()) as archive:
        archive.refused, archive.ignored
        for entry in archive.entries:        # .name, .label
            archive.read(entry)              # bytes

Nothing is unpacked to a disk, and no number in the archive is trusted: entries are counted before Python's zipfile
reads the directory, and bytes are counted as they are decompressed, for all entries before the first is given out. This
module does not know what a picture is.
"""

from __future__ import annotations

import contextlib
import re
import stat
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from raycls.data.class_names import printable
from raycls.data.readers import BROKEN
from raycls.data.sources.archive import TARS, ZIPS
from raycls.data.sources.tree import Tree, arrange
from raycls.errors import UploadError, UploadTooLargeError
from raycls.lifecycle.limits import UploadLimits

ENTRY = b"PK\x01\x02"  # begins each entry of a zip's directory: APPNOTE.TXT of PKWARE, 4.3.12
BLOCK = 1 << 20
NAME_CHARACTERS, NAME_FOLDERS = 500, 20  # longest path in an archive, and most folders in it
SHOWN_CHARACTERS = 200  # of a file's name in an answer
# bzip2 and LZMA expand a few bytes to any number before Python's zipfile can stop.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ARCHIVES = (*ZIPS, *TARS, ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
DRIVE = re.compile(r"[A-Za-z]:")


class Entry(NamedTuple):
    """A file of the archive: its path, and the name of its class folder."""

    name: str
    label: str
    place: int


class Refused(NamedTuple):
    """A file that is not taken, by the name that its sender gave it."""

    file: str
    reason: str


class Archive:
    """An open archive. entries: its files. refused: those that are not taken. ignored: files that programs leave."""

    def __init__(self, opened: zipfile.ZipFile, limits: UploadLimits):
        self._opened, self._members, self._limits = opened, opened.infolist(), limits
        tree = Tree()
        self.refused: list[Refused] = []
        for place, member in enumerate(self._members):
            if reason := _fault(member):
                self.refused.append(Refused(named(member.orig_filename), reason))
            elif member.is_dir():
                tree.add_folder(member.filename.strip("/"))
            else:
                tree.add(member.filename, ("zip", "", place))
        listing = arrange(tree, "the archive")
        self.refused += [Refused(named(source), reason) for source, _, reason in listing.left_out]
        self.ignored = listing.ignored
        self.entries = [
            Entry(source, label, int(where[2]))
            for source, label, where in zip(listing.sources, listing.labels, listing.wheres, strict=True)
        ]
        if len(self.entries) > limits.files:
            raise UploadTooLargeError(
                f"the archive has {len(self.entries):,} files, but at most {limits.files:,} are taken at a time: send "
                "it in parts"
            )
        self._measure()

    def read(self, entry: Entry) -> bytes:
        """Return the bytes of a file, at most one more than a picture may have. Raises UploadError."""
        with self._file(entry) as file:
            return file.read(self._limits.picture_bytes + 1)

    def _measure(self) -> None:
        """Decompress all files. Leave those out that are damaged. Raises UploadTooLargeError for too many bytes."""
        left, sound = self._limits.unpacked_bytes, []
        for entry in self.entries:
            try:
                with self._file(entry) as file:
                    while block := file.read(BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise UploadTooLargeError(
                                f"the archive unpacks to more than {self._limits.unpacked_bytes >> 20:,} MB: send it "
                                "in parts"
                            )
                sound.append(entry)
            except UploadTooLargeError:
                raise
            except UploadError as error:
                self.refused.append(Refused(named(entry.name), str(error)))
        self.entries = sound

    @contextlib.contextmanager
    def _file(self, entry: Entry) -> Iterator[BinaryIO]:
        try:
            with self._opened.open(self._members[entry.place]) as file:
                yield file  # type: ignore[misc]
        except (*BROKEN, ValueError, RuntimeError, NotImplementedError) as error:
            raise UploadError(
                f"damaged in the archive: {printable(str(error))[:SHOWN_CHARACTERS]}"
            ) from error


@contextlib.contextmanager
def opened_zip(file: BinaryIO, limits: UploadLimits) -> Iterator[Archive]:
    """Open a zip of class folders, and yield it. The class of a file is its top folder, as for `raycls data prepare`.

    file: open for reading at any place. Raises UploadTooLargeError if it exceeds a limit, UploadError if it is no zip,
    and DataError if its folders are no class folders.
    """
    if (size := file.seek(0, 2)) > limits.archive_bytes:
        raise UploadTooLargeError(
            f"the archive has {size >> 20:,} MB, but at most {limits.archive_bytes >> 20:,} are taken: send it in parts"
        )
    if _entries(file) > limits.entries:
        raise UploadTooLargeError(f"the archive has more than {limits.entries:,} entries: send it in parts")
    try:
        opened = zipfile.ZipFile(file)
    except Exception as error:  # zipfile raises many types on hostile bytes: all mean that this is no zip
        raise UploadError("the file cannot be read as a zip: send a zip of class folders") from error
    with opened:
        yield Archive(opened, limits)


def named(file: str) -> str:
    """Return the name of a file that a stranger sent, for an answer: one line, not too long."""
    # Text of JSON may have lone surrogates, which nothing can print.
    name = printable(file.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"


def _entries(file: BinaryIO) -> int:
    """Return the most entries that zipfile can find: each begins with ENTRY."""
    file.seek(0)
    count, last = 0, b""
    while block := file.read(BLOCK):
        count += (last + block).count(ENTRY)
        last = block[-len(ENTRY) + 1 :]
    return count


def _fault(member: zipfile.ZipInfo) -> str:
    """Return why an entry is not taken, or ""."""
    name = member.orig_filename  # zipfile cuts the other one at a NUL
    kind = stat.S_IFMT(member.external_attr >> 16)
    parts = name.rstrip("/").split("/")
    odd = name.startswith("/") or "\\" in name or DRIVE.match(name) or {"", ".", ".."} & set(parts)
    faults = {
        "a link or a special file in an archive": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
        "encrypted": member.flag_bits & 1,
        "its path is too long": len(name) > NAME_CHARACTERS or len(parts) > NAME_FOLDERS,
        "its path is absolute, or has a backslash, or a part that is empty, '.' or '..'": odd,
        "its name has a NUL": "\0" in name,
        "an archive in an archive": name.lower().endswith(ARCHIVES),
        "compressed in another way than deflate": member.compress_type not in METHODS,
    }
    return next((fault for fault, found in faults.items() if found), "")
