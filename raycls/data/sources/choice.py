"""Which kind of source a name means, by what lies there.

listing = list_source("s3://bucket/pets", Choice(labels="leaf"))
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from raycls.data.class_names import printable
from raycls.data.files import exists, files_below, is_uri, join, shown
from raycls.data.listing import Listing
from raycls.data.sources import huggingface
from raycls.data.sources.archive import TARS, ZIPS, archive_tree
from raycls.data.sources.local import walk
from raycls.data.sources.table import TABLES, list_parquet_folder, list_table
from raycls.data.sources.tree import Labels, Tree, arrange, group_of
from raycls.data.sources.webdataset import is_webdataset, list_webdataset
from raycls.errors import UsageError
from raycls.progress import bar

KINDS = "a folder of class folders, a zip or tar of one, a .csv, .jsonl or .parquet table, WebDataset tars"


@dataclass(frozen=True)
class Choice:
    """How folders become classes and groups: see `raycls.data.sources.tree.arrange`."""

    labels: Labels = "top"
    group_by: re.Pattern[str] | None = None


def existing(source: str) -> str:
    """Return a source in full: a URI, or an absolute path. Raises UsageError if there is nothing."""
    if source.startswith(huggingface.HUB):
        return huggingface.on_the_hub(source)
    full = source if is_uri(source) else str(Path(source).expanduser().resolve())
    try:
        kind = exists(full)
    except OSError as error:
        raise UsageError(f"{shown(source)} cannot be opened: {shown(str(error).splitlines()[0])}") from None
    if kind == "nothing":
        raise UsageError(f"{shown(source)} does not exist: a source is cifar10, digits, {KINDS}, or hf:NAME")
    if kind == "file" and not _address(full).endswith((*ZIPS, *TARS, *TABLES)):
        raise UsageError(f"{shown(source)} is no source: give {KINDS}")
    return full


def list_source(source: str, choice: Choice) -> Listing:
    """Return the images of what `existing` returned. Raises DataError if it is damaged or has no classes."""
    with bar(f"listing {shown(source)}"):
        listing, in_folders = _listed(source, choice)
    if not in_folders:
        if choice.labels != "top":
            raise UsageError(f"--labels is for folders: {shown(source)} says the label of each image itself")
        listing.groups = [
            group or group_of(choice.group_by, name)
            for group, name in zip(listing.groups, listing.sources, strict=True)
        ]
    return replace(listing, source=printable(shown(source)))


def _listed(source: str, choice: Choice) -> tuple[Listing, bool]:
    """Return the images, and whether folders say what they are."""
    address = _address(source)
    if address.endswith(TABLES):
        return list_table(source), False
    if address.endswith((*ZIPS, *TARS)):
        if address.endswith(TARS) and is_webdataset(source):
            return list_webdataset([source], source), False
        return arrange(archive_tree(source), source, choice.labels, choice.group_by), True
    if not is_uri(source) and huggingface.is_saved(Path(source)):
        return huggingface.list_saved(Path(source)), False
    tree = _remote(source) if is_uri(source) else walk(Path(source))
    listing = _tables_or_shards(source, [path for path, _ in tree.files])
    return (listing, False) if listing else (arrange(tree, source, choice.labels, choice.group_by), True)


def _tables_or_shards(source: str, paths: list[str]) -> Listing | None:
    """Return the images of a folder of Parquet files or of tars, or None for a folder of images."""
    if any(map(is_image, paths)):
        return None
    if any(path.lower().endswith(".parquet") for path in paths):
        return list_parquet_folder(source)
    shards = sorted(path for path in paths if path.lower().endswith(TARS))
    whole = [join(source, path) if is_uri(source) else str(Path(source) / path) for path in shards]
    return list_webdataset(whole, source) if shards else None


def is_image(path: str) -> bool:
    return path.lower().endswith((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))


def _remote(uri: str) -> Tree:
    tree = Tree()
    for path, size, changed_ns in files_below(uri):
        tree.add(path, ("file", join(uri, path), size, changed_ns))
    return tree


def _address(source: str) -> str:
    return source.partition("?")[0].lower() if is_uri(source) else source.lower()
