"""Makes the next version of a dataset from a source, if anything differs from the version before.

    prepare("cifar10")                       # or "digits"
    prepare("photos/flowers", size=64)       # a folder of class folders

raycls/data/sources/ lists the images, raycls/data/ingest.py decodes them, and raycls/data/assemble.py makes the
version. This module knows neither the command line nor training.
"""

from __future__ import annotations

import re
import statistics
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from raycls import progress
from raycls.data import built_in
from raycls.data.assemble import Images, Settings, assemble
from raycls.data.class_names import ClassNames
from raycls.data.decode import every_format
from raycls.data.exclusion import FORGOTTEN, Exclusions, exclusions_of
from raycls.data.files import shown
from raycls.data.ingest import decode_all
from raycls.data.layout import versions_of
from raycls.data.listing import Listing
from raycls.data.manifest import LeftOut, is_upload, read_rows
from raycls.data.options import PrepareOptions, pattern, store_for
from raycls.data.packed import PackedDataset, Store
from raycls.data.parts import PartPixels, Parts
from raycls.data.readers import header_of, is_local
from raycls.data.sources import Choice, existing, list_source
from raycls.data.sources.tree import Labels
from raycls.data.splits import SHARES
from raycls.data.transforms import Resize
from raycls.data.versions import open_dataset
from raycls.data.writer import reserved
from raycls.errors import DataError, UsageError

SIZES = range(8, 1025)  # pixels a side
MAX_UNREADABLE = 0.05  # share of all files
MIN_IMAGES = 3  # images of a class
SAMPLE = 100  # images of a bucket or an archive that are read for the default size


def prepare(
    source: str,
    *,
    name: str | None = None,
    root: Path | None = None,
    size: int | None = None,
    resize: Resize | None = None,
    labels: Labels | None = None,
    group_by: str | None = None,
    mirror: bool | None = None,
    shares: tuple[float, ...] | None = None,
    merge_case: bool = False,
    exclude: Path | None = None,
    store: Store | None = None,
) -> PackedDataset:
    """Return the newest version of a source's dataset. Make it first, if there is none or anything differs.

    source: "cifar10", "digits", or what raycls/data/sources/ lists: a folder, an archive, a table or WebDataset tars by
    path or URI, or hf:NAME. name: of the dataset; default: the source's.
    root: for cifar10, a folder with torchvision's files. size: pixels a side; default: from the images. resize: how an
    image becomes a square. labels: which of the folders that a file is in is its class. group_by: a regular expression;
    files in whose paths it finds the same text stay in one split. mirror: whether training may mirror the images left
    to right. shares: of train, val, gate and test. merge_case: names that differ in case are one class. exclude: a list
    of images to leave out, see raycls/data/exclusion.py. store: "packed" or "encoded"; default: by size (`store_for`).
    What is None is taken from the version before.

    Raises UsageError (no such source, options that do not fit), SourceError (every source of CIFAR-10 failed),
    BusyError (another process is preparing the dataset) or DataError (the images make no dataset).
    """
    if root is not None and source != "cifar10":
        raise UsageError(f"--root is the folder of CIFAR-10's files: remove it for {source}")
    if source in built_in.NAMES:
        given = (name, size, resize, labels, group_by, mirror, shares, store)
        if any(option is not None for option in (*given, exclude)) or merge_case:
            raise UsageError(f"{source} is prepared in one way only: remove all options but --root")
        return _built_in(source, root)
    if not source or name == "":
        raise UsageError("the source or the name is empty: an unset variable of the shell?")
    full = existing(source)
    name = name or _name_of(shown(full))
    if name in built_in.NAMES:
        raise UsageError(f"the name {name} belongs to the built-in dataset: choose another with --name")
    if size is not None and size not in SIZES:
        raise UsageError(f"--size {size} is out of range: from {SIZES[0]} to {SIZES[-1]} pixels a side")
    pattern(group_by)  # before anything is read
    with reserved(name) as folder:
        former = open_dataset(name) if versions_of(name) else None
        merge_case = merge_case or bool(former and former.info.options.get("merge_case"))
        options = PrepareOptions(size, resize, labels, group_by, mirror, shares, store).or_of(former)
        listing = list_source(full, Choice(options.labels or "top", pattern(options.group_by)))
        return _pack(listing, name, folder, former, options, merge_case, exclusions_of(name, exclude))


def open_or_prepare(reference: str) -> PackedDataset:
    """Return a dataset version; a built-in dataset that is not there yet is prepared, saying so."""
    if reference in built_in.NAMES and not versions_of(reference):
        progress.say(f"{reference} is not prepared yet: preparing it")
        return prepare(reference)
    return open_dataset(reference)


def _pack(
    listing: Listing,
    name: str,
    folder: Path,
    former: PackedDataset | None,
    options: PrepareOptions,
    merge_case: bool,
    exclusions: Exclusions,
) -> PackedDataset:
    for empty in listing.empty:
        progress.say(f"warning: {empty}/ has no file: it is no class")
    known = former.info.classes if former else ()
    names = ClassNames.of(listing.labels, former=known, merge_case=merge_case)
    index_of = {name: index for index, name in enumerate(names.classes)}
    labels = np.array([index_of[names.of_label[label]] for label in listing.labels], dtype=np.int64)
    _check_counts(listing, names.classes, known, labels, "files")
    size = options.size or default_size(listing)
    resize = options.resize or "crop"
    store = options.store or store_for(len(listing), size)
    mirrorable = options.mirror is not False
    if former is None and options.mirror is None:
        progress.say(
            "training may mirror the images left to right: where that changes what they show, as with text, prepare "
            "them with --no-mirror"
        )
    if former is not None and (sent := sum(map(is_upload, read_rows(former)["source"].to_pylist()))):
        progress.say(
            f"{former.info.reference} has {sent:,} uploaded pictures, which a version of the source lacks: "
            f"`raycls data prepare {name} --add-uploads` adds them again"
        )
    parts = Parts(folder / ".decoded", size, resize, store)
    decode_all(listing, parts, resize)
    table = parts.rows(listing.wheres)
    kinds = table["kind"].to_numpy(zero_copy_only=False)
    digests = table["sha256"].to_numpy(zero_copy_only=False)
    by_hand = np.array(
        [exclusions.kind_of(digest, source) for digest, source in zip(digests, listing.sources, strict=True)],
        dtype=object,
    )
    left_out = [
        LeftOut(*entry)
        for entry in (
            *listing.left_out,
            *(
                (listing.sources[position], str(kinds[position]), table["reason"][position].as_py())
                for position in np.flatnonzero((kinds != "") & (by_hand == ""))
            ),
        )
    ]
    exclusions.tell_unmatched(digests, listing.sources)
    unlisted = sum(kind == "unreadable" for _, kind, _ in listing.left_out)
    _check_unreadable(left_out, len(listing) + unlisted - int((kinds == "ignored").sum()))
    left_out += [
        LeftOut(
            "an image" if by_hand[position] == FORGOTTEN else listing.sources[position],
            by_hand[position],
            "by a person",
            digests[position],
        )
        for position in np.flatnonzero(by_hand != "")
    ]
    kept = np.flatnonzero((kinds == "") & (by_hand == ""))
    _check_counts(listing, names.classes, known, labels[kept], "readable images")
    columns = {
        column: table[column].to_numpy(zero_copy_only=False)[kept]
        for column in ("sha256", "width", "height", "mode", "phash", "noticed")
    }
    columns["source"] = np.array(listing.sources, dtype=object)[kept]
    columns["own_split"] = np.array([split or "" for split in listing.splits], dtype=object)[kept]
    columns["key"] = np.array(listing.groups, dtype=object)[kept]
    images = Images(
        columns=columns,
        labels=labels[kept],
        classes=names.classes,
        pixels=PartPixels(parts, table["part"].to_numpy()[kept], table["row"].to_numpy()[kept]),
    )
    shares = dict(zip(SHARES, options.shares or SHARES.values(), strict=True))
    dataset = assemble(
        images,
        name=name,
        former=former,
        settings=Settings(
            size=size,
            resize=resize,
            mirrorable=mirrorable,
            shares=shares,
            labels=options.labels or "top",
            group_by=options.group_by or "",
            merge_case=merge_case,
            store=store,
        ),
        source=listing.source,
        licence="not stated: the licence of the images in the folder",
        left_out=left_out,
        ignored=listing.ignored,
    )
    parts.remove()
    return dataset


def default_size(listing: Listing) -> int:
    """Return the median of the images' shorter sides, rounded down to a multiple of 8, from 8 to 224 pixels.

    Of more than 1,000 files of this machine it opens 500 to 1,000, evenly spaced; of others it reads 100 to 200.
    """
    sides = []
    local = [where for where in listing.wheres if where[0] == "file" and is_local(where)]
    chosen = local[:: max(1, len(local) // 500)] or listing.wheres[:: max(1, len(listing) // SAMPLE)]
    for where in chosen:
        try:
            with warnings.catch_warnings(), header_of(where) as file:
                warnings.simplefilter("ignore")
                with Image.open(file, formats=every_format()) as image:
                    sides.append(min(image.size))
        except Exception:  # Pillow raises many types; `decode_all` reads the same image again and reports it
            continue
    size = int(min(224, max(8, statistics.median(sides or [0]) // 8 * 8)))
    progress.say(f"image size {size}: the median of the shorter sides. Choose another one with --size")
    return size


def _name_of(source: str) -> str:
    """Return the default name of a dataset: the last part of its source, without the suffix."""
    name = source.partition("?")[0].rstrip("/").rpartition("/")[2].partition("@")[0]
    return re.sub(r"\.(zip|tar|t?gz|tar\.\w+|tbz2|txz|csv|jsonl|ndjson|parquet)$", "", name.lower())


def _built_in(name: str, root: Path | None) -> PackedDataset:
    with reserved(name) as folder:
        if versions_of(name):
            dataset = open_dataset(name)
            progress.say(f"{dataset.info.reference} is prepared already")
            return dataset
        made = built_in.images(name, root, folder)
        return assemble(
            made.images,
            name=name,
            former=None,
            settings=Settings(size=made.side, resize="crop", mirrorable=made.mirrorable, shares=made.shares),
            source=made.source,
            licence=made.licence,
            left_out=[],
            ignored=0,
        )


def _check_counts(
    listing: Listing, classes: tuple[str, ...], known: tuple[str, ...], labels: np.ndarray, what: str
) -> None:
    if len(classes) < 2:
        raise DataError(
            f"{listing.source} has {len(classes)} class folders with files ({', '.join(classes) or 'none'}): make at "
            "least two, each with the images of its class"
        )
    counts = np.bincount(labels, minlength=len(classes))
    if gone := [name for name, count in zip(classes, counts, strict=True) if not count and name in known]:
        raise DataError(
            f"{listing.source} has no {what} of {', '.join(gone[:10])}, which the version before has: a class of a "
            "dataset stays. Make another dataset, with --name"
        )
    small = [f"{name} has {count}" for name, count in zip(classes, counts, strict=True) if count < MIN_IMAGES]
    if small:
        raise DataError(
            f"too few {what} in {len(small)} classes: {', '.join(small[:10])}. At least {MIN_IMAGES} are needed: add "
            "some, or remove the class"
        )


def _check_unreadable(left_out: list[LeftOut], files: int) -> None:
    unreadable = [(entry.source, entry.reason) for entry in left_out if entry.kind == "unreadable"]
    if len(unreadable) > MAX_UNREADABLE * files:
        raise DataError(
            f"{len(unreadable)} of {files} files are unreadable, more than {MAX_UNREADABLE:.0%}: remove "
            f"them. The first is {unreadable[0][0]} ({unreadable[0][1]})"
        )
    if unreadable:
        progress.say(
            f"skipped {len(unreadable)} of {files} files that cannot be read, like {unreadable[0][0]} "
            f"({unreadable[0][1]})"
        )
