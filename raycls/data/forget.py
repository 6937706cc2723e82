"""Takes an image out of every version of every dataset: the one exception to the rule that a version never changes.

    forget("8c1d0f…")        # the SHA-256 of the file, as manifest.parquet has it

A row in left_out.parquet says that something was forgotten, without its path. This machine keeps the digest, so that
later versions leave the image out, and copies that are pulled. The version gets a new fingerprint, and keeps the former
one in its description, so that a model which learned from it still finds it. A copy on the storage path is replaced.
"""

from __future__ import annotations

import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycls import home
from raycls.data import resized, sharing, subsets
from raycls.data.exclusion import DIGEST, FORGOTTEN, forgotten_here, remember_forgotten
from raycls.data.layout import DECODED, names, removed_rows, versions_of
from raycls.data.manifest import LeftOut, left_out_table, read_left_out, read_rows, write_table
from raycls.data.packed import PackedDataset
from raycls.data.pixels import SplitPixels, fill
from raycls.data.room import check_room
from raycls.data.versions import open_dataset
from raycls.data.writer import reserved, write_version
from raycls.errors import DataError, StorageError, UsageError
from raycls.progress import say


def forget(sha256: str) -> list[str]:
    """Take the images with these bytes out of all versions on this machine. Return the versions that had one.

    A second call repairs what an interrupted first one left, also on the storage path. Raises UsageError if no version
    has or had such an image, and BusyError if a dataset is being prepared. Raises DataError, at the end, if a version
    is damaged, or if train would be empty.
    """
    sha256 = sha256.lower()
    if not DIGEST.fullmatch(sha256):
        raise UsageError(f"{sha256!r} is no SHA-256: give the 64 hex digits of manifest.parquet")
    changed: list[str] = []
    unnamed: list[str] = []
    failed: list[str] = []
    known = sha256 in forgotten_here()
    _without_copies()
    for name in names():
        with reserved(name) as folder:  # also finishes what a killed process left
            shutil.rmtree(folder / DECODED, ignore_errors=True)
            for version in versions_of(name):
                try:
                    dataset = open_dataset(f"{name}@{version}")
                    rows = read_rows(dataset)
                    if not len(rows):
                        unnamed.append(dataset.info.reference)
                    if (gone := _gone(rows, {sha256})).any():
                        remember_forgotten(sha256)
                        dataset = _without(dataset, rows, gone)
                        changed.append(dataset.info.reference)
                    if sha256 in (row["sha256"] for row in read_left_out(dataset).to_pylist()):
                        known = True
                        sharing.replace(dataset)
                except (DataError, StorageError) as error:
                    failed.append(str(error))
            for file in removed_rows(name).values():
                rows = pq.read_table(file)
                write_table(rows.filter(pa.array(~_gone(rows, {sha256}))), file)
    if unnamed:
        say(
            f"warning: {', '.join(unnamed)} are of before there were versions and do not know their files: they may "
            "hold the image; remove them with `raycls data remove`"
        )
    if changed and not home.shared_storage():
        say("a copy on a storage path would still have it: set RAYCLS_STORAGE and run the command again")
    if failed:
        done = f"forgotten in {', '.join(changed)}" if changed else "forgotten in no version"
        raise DataError(f"{done}; {len(failed)} versions may still have it: {'; '.join(failed)}")
    if not known:
        raise UsageError(f"no dataset version on this machine has an image with the SHA-256 {sha256}")
    return changed


def _without_copies() -> None:
    """Delete the copies that trainings have made of a part of a version, or at another size. They make them again."""
    for copies in (subsets.FOLDER, resized.FOLDER):
        shutil.rmtree(home.home() / copies, ignore_errors=True)


def without_forgotten(dataset: PackedDataset) -> PackedDataset:
    """Return a version that was pulled, without the images that were forgotten here. The caller holds its name."""
    rows = read_rows(dataset)
    gone = _gone(rows, forgotten_here())
    return _without(dataset, rows, gone) if gone.any() else dataset


def _gone(rows: pa.Table, digests: set[str]) -> np.ndarray:
    """Return which rows have one of the digests: bool N."""
    return pc.is_in(rows["sha256"], pa.array(sorted(digests), pa.string())).to_numpy(zero_copy_only=False)


def _without(dataset: PackedDataset, rows: pa.Table, gone: np.ndarray) -> PackedDataset:
    info = dataset.info
    digests = sorted(set(rows["sha256"].filter(pa.array(gone)).to_pylist()))
    kept, labels, first = {}, {}, 0
    for split, count in info.counts.items():
        kept[split] = np.flatnonzero(~gone[first : first + count])
        labels[split] = dataset.labels(split)[kept[split]]
        first += count
    if not len(kept["train"]):
        raise DataError(f"{info.reference} would have no training image: remove it with `raycls data remove`")
    day = time.strftime("%Y-%m-%d")
    added = [LeftOut("an image", FORGOTTEN, f"forgotten on {day}", digest) for digest in digests]
    with write_version(info.name, info.version) as writer:
        check_room(dataset, tuple(info.counts), writer.path)
        for split, chosen in kept.items():
            pixels = SplitPixels(dataset, (split,))
            fill(writer, split, info.store, pixels, chosen, labels[split], info.image_size)
        return writer.publish(
            classes=info.classes,
            labels=labels,
            mirrorable=info.mirrorable,
            source=info.source,
            licence=info.licence,
            rows=rows.filter(pa.array(~gone)),
            left_out=pa.concat_tables(
                [read_left_out(dataset), left_out_table(added)], promote_options="default"
            ),
            resize=info.resize,
            ignored=info.ignored,
            options=info.options,
            former_fingerprints=(*info.former_fingerprints, info.fingerprint),
        )
