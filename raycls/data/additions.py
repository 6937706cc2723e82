"""Makes the next version of a dataset from the one before and pictures that people sent.

    added = add_pictures("pets", lambda: Wanted([Addition(sha256, "cat", "ann", where), …], known={sha256, …}))
    added.dataset, added.count, added.waiting

The images of the version before come from its arrays, so its source need not exist any more. They keep their splits;
raycls/data/assemble.py gives the new ones theirs. What is wanted is stated in full each time, so a call that is killed,
or made twice, adds nothing twice. This module does not know where pictures are stored or who reviewed them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raycls.data.assemble import Images, Settings, assemble
from raycls.data.class_names import ClassNames
from raycls.data.exclusion import exclusions_of
from raycls.data.ingest import TASK_FILES, decode_all, decode_here
from raycls.data.layout import DECODED
from raycls.data.listing import Listing
from raycls.data.manifest import SCHEMA, LeftOut, is_upload, read_left_out, read_rows
from raycls.data.options import PrepareOptions
from raycls.data.packed import PackedDataset
from raycls.data.parts import PartPixels, Parts
from raycls.data.pixels import Pixels, SplitPixels
from raycls.data.senders import Addition, choose
from raycls.data.splits import SHARES
from raycls.data.versions import open_dataset
from raycls.data.writer import reserved
from raycls.errors import UsageError
from raycls.progress import say

COLUMNS = ("source", "sha256", "width", "height", "mode", "phash", "noticed")
COLUMN_TYPES = pa.schema([SCHEMA.field(column) for column in COLUMNS])


@dataclass(frozen=True)
class Wanted:
    """What a dataset should have of the pictures that people sent.

    pictures: all that were accepted, each once, the first come first. known: the digests of all of which somebody keeps
    a record. The next version drops those that the former one has from a sender and that are not wanted any more.
    """

    pictures: Sequence[Addition]
    known: Collection[str] = ()


@dataclass(frozen=True)
class Added:
    """A version, the number of pictures that are new in it, and for each sender the number that wait for later ones."""

    dataset: PackedDataset
    count: int = 0
    waiting: dict[str, int] = field(default_factory=dict)


def add_pictures(name: str, read: Callable[[], Wanted], *, trusted: Collection[str] = ()) -> Added:
    """Return the next version of a dataset, with all wanted pictures, or the newest one if nothing differs.

    read: returns what is wanted; it is called when no other process can make a version. Of one sender, a class has at
    most a tenth of its pictures; the sender's others wait for a later version. trusted: senders without this limit.

    Raises UnknownDatasetError, UsageError (the version before does not know its images), BusyError (another process is
    preparing the dataset) or DataError (the images make no dataset).
    """
    open_dataset(name)  # pulls it, or says what there is
    with reserved(name) as folder:
        former, asked = open_dataset(name), read()
        rows = read_rows(former)
        if not len(rows):
            raise UsageError(
                f"{former.info.reference} is of before there were versions and does not know its images: prepare it "
                "again from its source first"
            )
        merge_case = bool(former.info.options.get("merge_case"))
        every = [*rows["label"].to_pylist(), *(each.label for each in asked.pictures)]
        names = ClassNames.of(every, former=former.info.classes, merge_case=merge_case)
        of_sha = {each.sha256: each for each in asked.pictures}
        kept, labels = _kept(rows, of_sha, set(asked.known), names)
        exclusions = exclusions_of(name, None)
        present = set(rows["sha256"].to_pylist())
        sources = rows["source"].take(pa.array(kept)).to_pylist()
        new, waiting = choose(
            [
                each
                for each in asked.pictures
                if each.sha256 not in present and not exclusions.kind_of(each.sha256, each.source)
            ],
            list(zip(sources, labels, strict=True)),
            names,
            trusted,
        )
        if not new and len(kept) == len(rows) and labels == rows["label"].to_pylist():
            say(f"{former.info.reference} has all accepted pictures already: nothing is new")
            shutil.rmtree(folder / DECODED, ignore_errors=True)
            return Added(former, 0, waiting)
        settings = _settings(former)
        listing = Listing(source=former.info.source)
        for each in new:
            listing.add(source=each.source, label=each.label, where=each.where)
        parts = Parts(folder / DECODED, settings.size, settings.resize, settings.store)
        (decode_here if len(listing) <= TASK_FILES else decode_all)(listing, parts, settings.resize)
        table = parts.rows(listing.wheres)
        # The bytes may have been damaged since somebody looked at them.
        whole = [
            not kind and found == each.sha256
            for kind, found, each in zip(
                table["kind"].to_pylist(), table["sha256"].to_pylist(), new, strict=True
            )
        ]
        sound = np.flatnonzero(whole)
        labels += [names.of_label[new[position].label] for position in sound]
        having = {*former.info.classes, *labels}  # a class whose pictures all wait is none yet
        classes = tuple(label for label in names.classes if label in having)
        index_of = {label: index for index, label in enumerate(classes)}
        images = Images(
            columns=_columns(
                rows.take(pa.array(kept)), table.take(pa.array(sound)), [new[i].source for i in sound]
            ),
            labels=np.array([index_of[label] for label in labels], dtype=np.int64),
            classes=classes,
            pixels=_Joined(
                former,
                kept,
                PartPixels(parts, table["part"].to_numpy()[sound], table["row"].to_numpy()[sound]),
            ),
        )
        dataset = assemble(
            images,
            name=name,
            former=former,
            settings=settings,
            source=former.info.source,
            licence=former.info.licence,
            left_out=[*_left_out(former), *_damaged(table, new, whole)],
            ignored=former.info.ignored,
        )
        parts.remove()
    count = len(set(read_rows(dataset)["sha256"].to_pylist()) - present)
    return Added(dataset, count, waiting)


def _kept(
    rows: pa.Table, wanted: dict[str, Addition], known: set[str], names: ClassNames
) -> tuple[np.ndarray, list[str]]:
    """Return the positions of the former images that stay, and their classes: a sent picture may have another now."""
    kept, labels = [], []
    columns = (rows[column].to_pylist() for column in ("source", "sha256", "label"))
    for position, (source, sha256, label) in enumerate(zip(*columns, strict=True)):
        if is_upload(source) and sha256 in known and sha256 not in wanted:
            continue
        kept.append(position)
        labels.append(
            names.of_label[wanted[sha256].label] if is_upload(source) and sha256 in wanted else label
        )
    return np.array(kept, dtype=np.int64), labels


def _settings(former: PackedDataset) -> Settings:
    options = PrepareOptions(*[None] * 7).or_of(former)
    return Settings(
        size=former.info.image_size,
        resize=former.info.resize,
        mirrorable=former.info.mirrorable,
        shares=dict(zip(SHARES, options.shares or SHARES.values(), strict=True)),
        labels=options.labels or "top",
        group_by=options.group_by or "",
        merge_case=bool(former.info.options.get("merge_case")),
        store=former.info.store,
    )


def _columns(former: pa.Table, decoded: pa.Table, sources: list[str]) -> dict[str, np.ndarray]:
    count = len(former) + len(decoded)
    added = decoded.append_column("source", pa.array(sources, pa.string()))
    joined = pa.concat_tables([table.select(COLUMNS).cast(COLUMN_TYPES) for table in (former, added)])
    columns = {column: joined[column].to_numpy(zero_copy_only=False) for column in COLUMNS}
    empty = np.full(count, "", dtype=object)
    return {**columns, "own_split": empty, "key": empty}


def _left_out(former: PackedDataset) -> list[LeftOut]:
    """Return what the version before left out, without the pictures that were sent: those are looked at again."""
    return [
        LeftOut(row["source"], row["kind"], row["reason"], row.get("sha256") or "")
        for row in read_left_out(former).to_pylist()
        if not is_upload(row["source"])
    ]


def _damaged(table: pa.Table, new: Sequence[Addition], whole: list[bool]) -> list[LeftOut]:
    if not all(whole):
        say(
            f"{whole.count(False):,} accepted pictures cannot be read now: the next version takes them if it can"
        )
    return [
        LeftOut(each.source, "unreadable", reason or "its bytes have changed since it was sent", each.sha256)
        for each, reason, fine in zip(new, table["reason"].to_pylist(), whole, strict=True)
        if not fine
    ]


class _Joined(Pixels):
    """The images of a version that stay, and after them the new ones."""

    def __init__(self, former: PackedDataset, kept: np.ndarray, new: Pixels):
        self._former, self._kept, self._new = SplitPixels(former, tuple(former.info.counts)), kept, new
        self._shape = (former.info.image_size, former.info.image_size, 3)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        images = np.empty((len(positions), *self._shape), dtype=np.uint8)
        is_new = positions >= len(self._kept)
        images[is_new] = self._new(positions[is_new] - len(self._kept))
        images[~is_new] = self._former(self._kept[positions[~is_new]])
        return images

    def files(self, positions: np.ndarray, lossy: bool) -> list[bytes | None]:
        is_new = positions >= len(self._kept)
        new = iter(self._new.files(positions[is_new] - len(self._kept), lossy))
        former = iter(self._former.files(self._kept[positions[~is_new]], lossy))
        return [next(new if each else former) for each in is_new]
