"""What a source holds, before any image is read: names, labels, splits, groups, and where the bytes are.

    listing = Listing(source="photos")
    listing.add(source="cat/1.jpg", label="cat", where=("file", "/photos/cat/1.jpg", 2048, 0))

Every source makes a Listing; raycls/data/ingest.py reads the bytes. This module knows neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# The first item names a reader of raycls/data/ingest.py; the others say where it finds the bytes, and change with them.
Where = tuple[str | int, ...]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "gate": "gate",
} | dict.fromkeys(("val", "valid", "validation"), "val")


@dataclass
class Listing:
    """The images of a source, in lists of one length, and what is not among them.

    labels are as the source spells them. splits: the source's own, or None. groups: the user's, or "". empty: the class
    folders without a file. left_out: (source, kind, reason); the kinds are those of raycls/data/manifest.py. ignored:
    the number of files that operating systems and programs leave behind.
    """

    source: str
    sources: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    wheres: list[Where] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    ignored: int = 0

    def __len__(self) -> int:
        return len(self.sources)

    def add(
        self, *, source: str, label: str, where: Where, split: str | None = None, group: str = ""
    ) -> None:
        self.sources.append(source)
        self.labels.append(label)
        self.splits.append(split)
        self.groups.append(group)
        self.wheres.append(where)

    def leave_out(self, source: str, kind: str, reason: str) -> None:
        self.left_out.append((source, kind, reason))
