"""A dataset version from decoded images: their groups, their splits, what differs from the version before, the arrays.

    dataset = assemble(images, name="pets", former=open_dataset("pets"), settings=settings, …)

This module knows rows and arrays. raycls/data/prepare.py gets them from a source.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raycls import progress
from raycls.data.groups import Former, Groups, find_groups
from raycls.data.history import former_splits
from raycls.data.manifest import EXAMPLES, SCHEMA, LeftOut, difference, left_out_table, read_rows
from raycls.data.packed import SPLITS, PackedDataset, Store
from raycls.data.pixels import Pixels, fill
from raycls.data.splits import FILLED, MOST_FILLED, NEW, assign, too_few
from raycls.data.transforms import Resize
from raycls.data.writer import next_version, write_version
from raycls.errors import DataError
from raycls.progress import say

Table = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a source that could be read, in arrays of one length.

    columns: those of raycls/data/manifest.py, without split and group, and `own_split` and `key`: the source's own
    split or "", and the user's group or "". labels: int64, indices into classes. official: the source's splits are
    published, so images that are alike are not looked for.
    """

    columns: Table
    labels: np.ndarray
    classes: tuple[str, ...]
    pixels: Pixels
    official: bool = False

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a preparation is asked for. The next version of the dataset takes it over."""

    size: int
    resize: Resize
    mirrorable: bool
    shares: dict[str, float]
    labels: str = "top"
    group_by: str = ""
    merge_case: bool = False
    store: Store = "packed"

    def options(self) -> dict[str, str]:
        """Return what a version's description has no field for."""
        shares = ",".join(f"{share:g}" for share in self.shares.values())
        case = {"merge_case": "yes"} if self.merge_case else {}
        return {"labels": self.labels, "group_by": self.group_by, "shares": shares, **case}


def assemble(
    images: Images,
    *,
    name: str,
    former: PackedDataset | None,
    settings: Settings,
    source: str,
    licence: str,
    left_out: list[LeftOut],
    ignored: int,
) -> PackedDataset:
    """Write and return the next version of a dataset, whose name is reserved; `former` if nothing differs."""
    before = former_splits(name, images.columns, images.labels, images.classes, images.pixels)
    with progress.bar(f"looking for copies among {len(images):,} images"):
        groups = _groups(images, before)
    split = _splits(images, groups, before, settings)
    kept = np.flatnonzero(split != NEW)
    left_out = left_out + _straddling(images, groups)
    _tell(images, groups, split)
    if images.official:  # in the published order
        order = kept[np.argsort(split[kept], kind="stable")]
    else:  # digests order the images, so they are shuffled, in the same way whatever is added
        order = kept[
            np.lexsort((images.columns["source"][kept], images.columns["sha256"][kept], split[kept]))
        ]
    rows = _rows(images, groups, split, order)
    if former is not None:
        changes = difference(read_rows(former), rows)
        info = former.info
        same = (info.image_size, info.resize, info.mirrorable, info.options, info.store) == (
            settings.size, settings.resize, settings.mirrorable, settings.options(), settings.store
        )  # fmt: skip
        if not changes and same:
            say(f"{former.info.reference} has these images already: nothing differs")
            return former
        say(f"against {former.info.reference}: {changes}" + ("" if same else "; the settings differ"))
    version = next_version(name)
    with progress.bar(f"writing {name}@{version}"), write_version(name, version) as writer:
        labels = {}
        for index, part in enumerate(SPLITS):
            mine = order[split[order] == index]
            labels[part] = images.labels[mine]
            fill(writer, part, settings.store, images.pixels, mine, labels[part], settings.size)
        return writer.publish(
            classes=images.classes,
            labels=labels,
            mirrorable=settings.mirrorable,
            source=source,
            licence=licence,
            rows=rows,
            left_out=left_out_table(left_out),
            resize=settings.resize,
            ignored=ignored,
            options=settings.options(),
        )


def _groups(images: Images, former: Former) -> Groups:
    columns, count = images.columns, len(images)
    if images.official:
        names = np.array([digest[:16] for digest in columns["sha256"]], dtype=object)
        return Groups(names, np.empty((0, 2), dtype=np.int64), np.zeros(count, dtype=bool))
    # Images of one colour have the same hash and nothing in common.
    hashes = columns["phash"].copy()
    blank = columns["noticed"] == "blank"
    hashes[blank] = np.random.default_rng(0).integers(0, 2**63, blank.sum(), dtype=np.uint64)
    own = bool((columns["own_split"] != "").any())
    return find_groups(
        columns["sha256"], hashes, columns["key"], images.labels, former, images.pixels, keep_all=own
    )


def _splits(images: Images, groups: Groups, former: Former, settings: Settings) -> np.ndarray:
    """Return the split of each image, an index into SPLITS, or NEW for an image that is left out: int64 N."""
    own = images.columns["own_split"]
    fixed = former.splits.copy()
    if (own == "").all():
        split = np.full(len(images), NEW)
        chosen = np.flatnonzero(~groups.left_out)
        split[chosen] = assign(images.labels[chosen], groups.names[chosen], fixed[chosen], settings.shares)
        _tell_small(images, split)
        return split
    if (own == "").any():
        some = _some(images, own == "")
        say(f"{(own == '').sum():,} images have no split of their own, like {some}: they go to train")
    given = np.array([SPLITS.index(name) if name else 0 for name in own])
    stay = (fixed != NEW) & (fixed != given) & (given != 0)
    if stay.any():
        say(
            f"{stay.sum():,} images are now in another split folder than before ({_some(images, stay)}): they stay in "
            "the split that they had"
        )
    lacking = [name for name in SPLITS[1:] if name not in own]
    fixed = np.where(fixed == NEW, np.where(given == 0, NEW if lacking else 0, given), fixed)
    if lacking:
        shares = {name: settings.shares[name] if images.official else FILLED for name in lacking}
        shares = {"train": 1 - sum(shares.values()), **shares}
        if not images.official:
            missing = " and ".join(f"{name}/" for name in lacking)
            say(f"{missing} missing: each is made of {FILLED:.0%} of train/")
        chosen = np.flatnonzero(np.isin(fixed, [NEW, 0, *(SPLITS.index(name) for name in lacking)]))
        places = list(shares)
        inside = np.array([NEW if index == NEW else places.index(SPLITS[index]) for index in fixed[chosen]])
        found = assign(images.labels[chosen], groups.names[chosen], inside, shares, MOST_FILLED)
        fixed[chosen] = [SPLITS.index(places[index]) for index in found]
    _tell_small(images, fixed)
    return fixed


def _straddling(images: Images, groups: Groups) -> list[LeftOut]:
    found = np.flatnonzero(groups.left_out)
    return [
        LeftOut(
            images.columns["source"][position],
            "straddles",
            "almost the same as images of two splits",
            images.columns["sha256"][position],
        )
        for position in found
    ]


def _tell(images: Images, groups: Groups, split: np.ndarray) -> None:
    """Say what was noticed: images that are alike in two splits, or that have two labels; images of one colour."""
    first, second = groups.pairs.T
    split_pairs = groups.pairs[
        (split[first] != split[second]) & (split[first] != NEW) & (split[second] != NEW)
    ]
    if len(split_pairs):
        count = len(np.unique(split_pairs[:, 1]))
        say(
            f"warning: {count:,} images are also in another split, or almost: {_pairs(images, split_pairs)}. The "
            "source's own splits are kept, so the accuracy on them is too high"
        )
    labels = images.labels
    same = images.columns["sha256"][first] == images.columns["sha256"][second]
    torn = groups.pairs[same & (labels[first] != labels[second])]
    if len(torn):
        first, second = torn[0]
        two = " and ".join(images.classes[label] for label in labels[[first, second]])
        say(f"warning: {len(torn):,} images have two labels, like {two}: {_pairs(images, torn)}")
    keys = images.columns["key"]
    kept = (keys != "") & (split != NEW)
    places = Counter(key for key, _ in {*zip(keys[kept], split[kept], strict=True)})
    if torn_keys := sorted(key for key, count in places.items() if count > 1)[:EXAMPLES]:
        say(f"warning: groups are in several splits, as the source has them, like {', '.join(torn_keys)}")
    if groups.cut:
        say(
            f"{groups.cut:,} pairs of images are alike, as most of their class is: they may be in two splits. Give "
            "--group-by if they are of one object"
        )
    if groups.left_out.any():
        say(
            f"{groups.left_out.sum():,} new images are almost the same as images of two splits, and are left out: "
            f"{_some(images, groups.left_out)}"
        )
    blank = images.columns["noticed"] == "blank"
    if blank.any():
        say(f"warning: {blank.sum():,} images show one colour only: {_some(images, blank)}")


def _tell_small(images: Images, split: np.ndarray) -> None:
    kept = split != NEW
    for part, missing in too_few(images.labels[kept], split[kept], images.classes, SPLITS).items():
        shown = ", ".join(missing[:EXAMPLES]) + (", …" if len(missing) > EXAMPLES else "")
        if len(missing) == len(images.classes):
            if part in ("train", "val"):
                raise DataError(f"{part} would have no image: add images, or choose other --shares")
            say(f"warning: {part} has no image")
        elif part == "train":
            raise DataError(f"train has no image of class {shown}: add some, or remove the class")
        else:
            say(f"warning: {part} has no image of class {shown}")


def _rows(images: Images, groups: Groups, split: np.ndarray, order: np.ndarray) -> pa.Table:
    columns: dict[str, Any] = {
        name: images.columns[name][order]
        for name in ("source", "sha256", "width", "height", "mode", "phash", "noticed")
    }
    columns["label"] = np.array(images.classes, dtype=object)[images.labels[order]]
    columns["split"] = np.array(SPLITS, dtype=object)[split[order]]
    columns["group"] = groups.names[order]
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names})


def _some(images: Images, chosen: np.ndarray) -> str:
    names = images.columns["source"][chosen]
    return ", ".join(names[:EXAMPLES]) + (", …" if len(names) > EXAMPLES else "")


def _pairs(images: Images, pairs: np.ndarray) -> str:
    names = images.columns["source"]
    shown = ", ".join(f"{names[first]} and {names[second]}" for first, second in pairs[:EXAMPLES])
    return shown + (", …" if len(pairs) > EXAMPLES else "")
