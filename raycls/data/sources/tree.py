"""Files in folders, wherever they are: a folder of this machine, a bucket, an archive.

    tree = Tree()
    tree.add("cat/1.jpg", ("file", "/photos/cat/1.jpg", 2048, 0))
    listing = arrange(tree, "photos", labels="top")

    cat/1.jpg, dog/2.png …                     classes, to be split
    train/cat/…, val/…, gate/…, test/…         classes, split as the folders are

This module knows names of files and opens none of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, get_args

from raycls.data.class_names import printable
from raycls.data.files import shown
from raycls.data.listing import SPLIT_NAMES, Listing, Where
from raycls.errors import DataError
from raycls.progress import say

Labels = Literal["top", "leaf", "path"]
LABELS: tuple[Labels, ...] = get_args(Labels)
LITTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}  # Windows, macOS and Synology
SHOWN = 4  # folders in a message


@dataclass
class Tree:
    """The files of a source by their paths inside it, with slashes. folders: all folders, also those without a file.

    left_out and ignored: see raycls/data/listing.py.
    """

    files: list[tuple[str, Where]] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    ignored: int = 0

    def add(self, path: str, where: Where) -> None:
        """Add a file and the folders above it. A file that some program left behind is only counted."""
        if any(is_litter(part) for part in path.split("/")):
            self.ignored += 1
            return
        self.files.append((path, where))
        self.add_folder(path.rpartition("/")[0])

    def add_folder(self, path: str) -> None:
        while path and path not in self.folders:
            self.folders.add(path)
            path = path.rpartition("/")[0]

    def leave_out(self, path: str, kind: str, reason: str) -> None:
        self.left_out.append((printable(path), kind, reason))


def is_litter(name: str) -> bool:
    """Return whether a file or folder of this name is never an image or a class: hidden, or left by some program."""
    return name.startswith(".") or name.lower() in LITTER


def arrange(
    tree: Tree, source: str, labels: Labels = "top", group_by: re.Pattern[str] | None = None
) -> Listing:
    """Return the images of the class folders, sorted by path.

    labels: the class of a file is the name of the topmost folder that it is in, of the lowest one, or all of them with
    slashes between. group_by: what it finds in a file's path is the name of the file's group. Raises DataError where
    split folders and class folders are side by side.
    """
    inside = defaultdict(list)  # folder → the folders in it
    for folder in sorted(tree.folders):
        parent, _, name = folder.rpartition("/")
        inside[parent].append(name)
    root = _unwrapped(inside, source)
    split_of = _own_splits(inside[root], source)
    above = f"{root}/" if root else ""
    listing = Listing(source=source, left_out=list(tree.left_out), ignored=tree.ignored)
    used: set[str] = set()
    for path, where in sorted(tree.files):
        folders = PurePosixPath(path).relative_to(root).parts[:-1] if path.startswith(above) else ()
        split = None
        if split_of and folders:
            split, folders = split_of.get(folders[0]), folders[1:]
        if not folders:
            listing.leave_out(printable(path), "ignored", "in no class folder")
            continue
        used.add(folders[0])
        listing.add(
            source=printable(path),
            label={"top": folders[0], "leaf": folders[-1], "path": "/".join(folders)}[labels],
            split=split,
            group=group_of(group_by, path),
            where=where,
        )
    parents = [above + folder for folder in split_of] if split_of else [root]
    classes = [f"{parent}/{name}".lstrip("/") for parent in parents for name in inside[parent]]
    listing.empty += sorted({printable(name) for name in classes if name.rpartition("/")[2] not in used})
    if labels == "top":
        _tell_nested([inside[name] for name in classes], source)
    return listing


def _unwrapped(inside: dict[str, list[str]], source: str) -> str:
    """Return the folder that holds the class folders: one further down, if it is a single one that holds several.

    An archive unpacked into a folder of its own name looks like this.
    """
    folder = ""
    while len(inside[folder]) == 1 and len(inside[below := f"{folder}/{inside[folder][0]}".lstrip("/")]) > 1:
        folder = below
    if folder:
        say(f"{shown(source)} holds a single folder: the classes are taken from {printable(folder)}/")
    return folder


def _own_splits(folders: list[str], source: str) -> dict[str, str]:
    """Return the split of each folder, or nothing where the folders are classes."""
    splits = {folder: SPLIT_NAMES[folder.lower()] for folder in folders if folder.lower() in SPLIT_NAMES}
    if "train" not in splits.values() or len(splits) == 1:
        return {}
    if len(splits) < len(folders) or len(set(splits.values())) < len(splits):
        raise DataError(
            f"{shown(source)} holds {', '.join(map(printable, folders))}: it must hold only class folders, or only "
            "train/, val/, gate/ and test/. Move the other folders away"
        )
    return splits


def group_of(pattern: re.Pattern[str] | None, path: str) -> str:
    """Return what the expression finds in a path: its first group that is set, else all of it; "" for nothing."""
    found = pattern.search(path) if pattern else None
    if not found:
        return ""
    return printable(next((part for part in found.groups() if part is not None), found.group()))


def _tell_nested(insides: list[list[str]], source: str) -> None:
    """Report on stderr if all class folders hold the same folders: those may be the classes."""
    if len(insides) > 1 and len(insides[0]) > 1 and all(names == insides[0] for names in insides):
        names = ", ".join(map(printable, insides[0][:SHOWN])) + (", …" if len(insides[0]) > SHOWN else "")
        say(
            f"every class folder of {shown(source)} holds the same folders ({names}): their images belong to the class "
            "above. If those are the classes, choose --labels leaf"
        )
