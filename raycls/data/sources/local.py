"""The files below a folder of this machine.

    tree = walk(Path("photos"))

Links to folders are followed, and a link that leads back to a folder above is not. Only regular files are listed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from raycls.data.sources.tree import Tree, is_litter


def walk(root: Path) -> Tree:
    """Return all files below a folder. What cannot be a file, or cannot be read, is left out with the reason."""
    tree = Tree()
    _add(tree, root, "", (os.path.realpath(root),))
    return tree


def _add(tree: Tree, folder: Path, inside: str, above: tuple[str, ...]) -> None:
    """Add what is below a folder. inside: its path in the source. above: the real paths of it and of those above it."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        tree.leave_out(inside, "unreadable", error.strerror or str(error))
        return
    for entry in entries:
        path = f"{inside}/{entry.name}".lstrip("/")
        if is_litter(entry.name):
            tree.ignored += 1
            continue
        try:
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in above or above[0].startswith(real + os.sep):
                    tree.leave_out(path, "ignored", "a link to a folder above")
                else:
                    tree.add_folder(path)
                    _add(tree, Path(entry.path), path, (*above, real))
                continue
            status = entry.stat()
        except OSError as error:  # a link to nothing, or a loop of links
            tree.leave_out(path, "unreadable", error.strerror or str(error))
            continue
        if stat.S_ISREG(status.st_mode):
            tree.add(path, ("file", entry.path, status.st_size, status.st_mtime_ns))
        else:  # to read a FIFO could wait for ever
            tree.leave_out(path, "unreadable", "not a regular file")
