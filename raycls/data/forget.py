"""Takes an image out of every version of every dataset: the one exception to the rule that a version never changes.

    forget("8c1d0f…")        # the SHA-256 of the file, as manifest.parquet has it

A row in left_out.parquet says that it was forgotten, and later versions leave it out, too. The version gets a new
fingerprint, and keeps the former one in its description, so that a model which learned from it still finds it. A copy
on the storage path is replaced.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycls.data import sharing
from raycls.data.exclusion import DIGEST, FORGOTTEN
from raycls.data.layout import names, removed_rows, versions_of
from raycls.data.manifest import LeftOut, left_out_table, read_left_out, read_rows, write_table
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.data.writer import reserved, write_version
from raycls.errors import DataError, UsageError
from raycls.progress import say


def forget(sha256: str) -> list[str]:
    """Take the images with these bytes out of all versions on this machine. Return the versions that had one.

    A second call repairs what an interrupted first one left, also on the storage path. Raises UsageError if no version
    has or had such an image, BusyError if a dataset is being prepared, and DataError if train would be empty.
    """
    if not DIGEST.fullmatch(sha256):
        raise UsageError(f"{sha256!r} is no SHA-256: give the 64 hex digits of manifest.parquet")
    changed, unnamed, known = [], [], False
    for name in names():
        with reserved(name):  # also finishes what a killed process left
            for version in versions_of(name):
                dataset = open_dataset(f"{name}@{version}")
                rows = read_rows(dataset)
                if not len(rows):
                    unnamed.append(dataset.info.reference)
                gone = pc.equal(rows["sha256"], sha256).to_numpy(zero_copy_only=False)
                if gone.any():
                    dataset = _without(dataset, rows, gone)
                    changed.append(dataset.info.reference)
                if sha256 in (row["sha256"] for row in read_left_out(dataset).to_pylist()):
                    known = True
                    sharing.replace(dataset)
            for file in removed_rows(name).values():
                rows = pq.read_table(file)
                write_table(rows.filter(pc.not_equal(rows["sha256"], sha256)), file)
    if unnamed:
        say(
            f"warning: {', '.join(unnamed)} are of before there were versions and do not know their files: they may "
            "hold the image; remove them with `raycls data remove`"
        )
    if not known:
        raise UsageError(f"no dataset version on this machine has an image with the SHA-256 {sha256}")
    return changed


def _without(dataset: PackedDataset, rows: pa.Table, gone: np.ndarray) -> PackedDataset:
    info = dataset.info
    digest = rows["sha256"].filter(pa.array(gone))[0].as_py()
    kept, labels, first = {}, {}, 0
    for split, count in info.counts.items():
        kept[split] = np.flatnonzero(~gone[first : first + count])
        labels[split] = dataset.labels(split)[kept[split]]
        first += count
    if not len(kept["train"]):
        raise DataError(f"{info.reference} would have no training image: remove it with `raycls data remove`")
    sources = rows["source"].filter(pa.array(gone)).to_pylist()
    day = time.strftime("%Y-%m-%d")
    added = [LeftOut(source, FORGOTTEN, f"forgotten on {day}", digest) for source in sources]
    with write_version(info.name, info.version) as writer:
        for split, chosen in kept.items():
            out = writer.array(split, len(chosen), info.image_size)
            # The default mode would copy `out`.
            np.take(dataset.images(split), chosen, axis=0, out=out, mode="clip")
            del out
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
