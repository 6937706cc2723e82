"""The files below a folder of this machine.

    tree = walk(Path("photos"))
    for entry in entries(Path("photos")): …      # one after another, in a fixed order

Links to folders are followed, and a link that leads back to a folder above is not. Only regular files are listed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from raycls.data.listing import Where
from raycls.data.sources.tree import Tree, is_litter


class Entry(NamedTuple):
    """Something below a folder, by its path inside the folder.

    where: of a file. reason: why something is left out, of the kinds `unreadable` and `ignored`; see
    raycls/data/listing.py. litter: what some program left behind.
    """

    kind: Literal["file", "folder", "unreadable", "ignored", "litter"]
    path: str
    where: Where = ()
    reason: str = ""


def walk(root: Path) -> Tree:
    """Return all files below a folder. What cannot be a file, or cannot be read, is left out with the reason."""
    tree = Tree()
    for entry in entries(root):
        if entry.kind == "file":
            tree.add(entry.path, entry.where)
        elif entry.kind == "folder":
            tree.add_folder(entry.path)
        elif entry.kind == "litter":
            tree.ignored += 1
        else:
            tree.leave_out(entry.path, entry.kind, entry.reason)
    return tree


def entries(root: Path) -> Iterator[Entry]:
    """Yield what is below a folder, sorted by name in each folder. Names of one folder at a time are in memory."""
    yield from _below(str(root), "", (os.path.realpath(root),))


def _below(folder: str, inside: str, above: tuple[str, ...]) -> Iterator[Entry]:
    """Yield what is below a folder. inside: its path in the source. above: the real paths of it and of those above.

    Paths are strings here: objects would take most of the time of listing millions of files.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        yield Entry("unreadable", inside, reason=error.strerror or str(error))
        return
    for name in names:
        path, file = f"{inside}/{name}" if inside else name, f"{folder}/{name}"
        if is_litter(name):
            yield Entry("litter", path)
            continue
        try:
            status = os.stat(file)  # noqa: PTH116
        except OSError as error:  # a link to nothing, or a loop of links
            yield Entry("unreadable", path, reason=error.strerror or str(error))
            continue
        if stat.S_ISREG(status.st_mode):
            yield Entry("file", path, ("file", file, status.st_size, status.st_mtime_ns))
        elif stat.S_ISDIR(status.st_mode):
            real = os.path.realpath(file)
            if real in above or above[0].startswith(real + os.sep):
                yield Entry("ignored", path, reason="a link to a folder above")
            else:
                yield Entry("folder", path)
                yield from _below(file, path, (*above, real))
        else:  # to read a FIFO could wait for ever
            yield Entry("unreadable", path, reason="not a regular file")
