"""WebDataset: tars in which the files of one image have the same name before the first dot.

    listing = list_webdataset(["shards/000.tar", "shards/001.tar"])     # 17.jpg 17.cls   18.jpg 18.json

The label is the text of `.cls` or `.txt`, or `label` (`split` and `group`, too) in `.json`. All members are bytes:
nothing is unpickled, whatever its suffix.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from raycls.data.class_names import printable
from raycls.data.files import shown
from raycls.data.listing import SPLIT_NAMES, Listing, Where
from raycls.data.readers import read_all
from raycls.data.sources.archive import tar_members
from raycls.data.sources.tree import is_litter
from raycls.errors import DataError

LABELS = ("cls", "json", "txt")
NO_IMAGES = (*LABELS, "pkl", "pickle", "pyd", "npy", "npz", "pth", "ten", "mp", "msg", "xml", "caption")
MAX_LABEL_BYTES = 1 << 20


def is_webdataset(path: str) -> bool:
    """Return whether a tar has a `.cls`, or a `.json` with a label, of the same name beside an image."""
    samples = _samples(path)
    if any("cls" in sample and len(sample) > 1 for sample in samples.values()):
        return True
    notes = [sample["json"] for sample in samples.values() if "json" in sample and len(sample) > 1]
    return any(_from_json(data) is not None for _, data in read_all(notes[:1]))


def list_webdataset(paths: list[str], source: str) -> Listing:
    """Return the images of some tars. Raises DataError, which names the first image without a label."""
    listing = Listing(source=source)
    for path in paths:
        samples = _samples(path)
        notes = [sample[kind] for sample in samples.values() for kind in LABELS if kind in sample]
        texts = dict(read_all([where for where in notes if int(where[3]) <= MAX_LABEL_BYTES]))
        name = path.partition("?")[0].rpartition("/")[2]
        for key, sample in samples.items():
            images = [kind for kind in sample if kind not in NO_IMAGES]
            # 17.jpg is the image, 17.depth.png something about it.
            image = min(images, key=lambda kind: (kind.count("."), kind), default=None)
            if image is None:
                listing.leave_out(f"{name}: {printable(key)}", "ignored", "no image of this name")
                continue
            known = _label(sample, texts, f"{shown(path)}: {key}")
            listing.add(
                source=f"{name}: {printable(key)}.{image}",
                label=str(known["label"]),
                split=SPLIT_NAMES.get(str(known.get("split", "")).lower()),
                group=str(known.get("group", "")),
                where=sample[image],
            )
    return listing


def _parts(name: str) -> tuple[str, str, str]:
    """Return a member's key and kind: of a/17.seg.png they are a/17 and seg.png."""
    folder, slash, file = name.rpartition("/")
    key, dot, kind = file.partition(".")
    return folder + slash + key, dot, kind.lower()


def _samples(path: str) -> dict[str, dict[str, Where]]:
    """Return the members of a tar: key → kind → place."""
    samples: dict[str, dict[str, Where]] = defaultdict(dict)
    for member, where in tar_members(path):
        if member.isreg() and not any(is_litter(part) for part in member.name.removeprefix("./").split("/")):
            key, _, kind = _parts(member.name)
            samples[key][kind] = where
    return samples


def _from_json(data: object) -> dict[str, Any] | None:
    """Return the content of a .json member that has a label, or None."""
    try:
        found = json.loads(data) if isinstance(data, bytes) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("label") is not None else None


def _label(sample: dict[str, Where], texts: dict[Where, Any], place: str) -> dict[str, Any]:
    for kind in LABELS:
        data = texts.get(sample.get(kind, ()))
        if not isinstance(data, bytes):
            continue
        if kind != "json":
            return {"label": data.decode("utf-8", "replace").strip()}
        if (found := _from_json(data)) is not None:
            return found
    raise DataError(f"{place} has no label: add a .cls, or a .json with `label`")
