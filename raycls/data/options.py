"""The options of a preparation: what the user asks for, and what the version before says for the rest.

options = PrepareOptions(size=64, …).or_of(open_dataset("pets@1"))
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from raycls import progress
from raycls.data.packed import STORES, PackedDataset, Store
from raycls.data.sources.tree import LABELS, Labels
from raycls.data.splits import SHARES
from raycls.data.transforms import RESIZES, Resize
from raycls.errors import UsageError

# Bytes of pixels up to which a version is packed, if nobody says. A larger array is more than the page cache of a usual
# machine holds, so that its random reads reach the disk, and each node copies all of it first.
PACKED_BYTES = 16 << 30


@dataclass(frozen=True)
class PrepareOptions:
    """The options of a preparation; None where the user gave none."""

    size: int | None
    resize: Resize | None
    labels: Labels | None
    group_by: str | None
    mirror: bool | None
    shares: tuple[float, ...] | None
    store: Store | None

    def or_of(self, former: PackedDataset | None) -> PrepareOptions:
        """Return the options, with those of the version before for what is None.

        Raises UsageError for what must stay as it is.
        """
        for value, allowed, option in (
            (self.resize, RESIZES, "--resize"),
            (self.labels, LABELS, "--labels"),
            (self.store, STORES, "--store"),
        ):
            if value not in (None, *allowed):
                raise UsageError(f"{option} {value} is unknown: choose one of {', '.join(allowed)}")
        if self.shares is not None and not _are_shares(self.shares):
            raise UsageError(f"--shares must be {len(SHARES)} numbers that sum to 1, of {', '.join(SHARES)}")
        if former is None:
            return self
        info, options = former.info, former.info.options
        if options and self.group_by is not None and self.group_by != options["group_by"]:
            raise UsageError(
                f"{info.reference} was grouped by {options['group_by']!r}, and its splits stay: choose another dataset "
                "with --name for other groups"
            )
        if not options:
            progress.say(
                f"{info.reference} is of before there were versions and does not know its files: its images are found "
                "by their pixels"
            )
            return replace(self, size=self.size or info.image_size, mirror=_or(self.mirror, info.mirrorable))
        shares = tuple(float(share) for share in options["shares"].split(","))
        if self.shares not in (None, shares):
            progress.say("an image keeps the split that it has: --shares counts for new images only")
        return PrepareOptions(
            size=self.size or info.image_size,
            resize=self.resize or info.resize,
            labels=self.labels or options["labels"],  # type: ignore[arg-type]
            group_by=options["group_by"],
            mirror=_or(self.mirror, info.mirrorable),
            shares=self.shares or shares,
            store=self.store or info.store,
        )


def pattern(group_by: str | None) -> re.Pattern[str] | None:
    """Return the compiled expression of --group-by, or None. Raises UsageError."""
    try:
        return re.compile(group_by) if group_by else None
    except re.error as error:
        raise UsageError(f"--group-by {group_by!r} is no regular expression: {error}") from None


def store_for(count: int, size: int) -> Store:
    """Return how to store this many images of `size` pixels a side. Say so where they are many."""
    pixels = count * size**2 * 3
    if pixels <= PACKED_BYTES:
        return "packed"
    progress.say(
        f"stored encoded, in shards: as one array of pixels the images would take {pixels / 1e9:,.0f} GB, more than "
        f"{PACKED_BYTES / 1e9:,.0f} GB. --store packed makes the array all the same"
    )
    return "encoded"


def _or(value: bool | None, otherwise: bool) -> bool:
    return otherwise if value is None else value


def _are_shares(shares: tuple[float, ...]) -> bool:
    return len(shares) == len(SHARES) and abs(sum(shares) - 1) < 1e-6 and min(shares) >= 0 and shares[0] > 0
