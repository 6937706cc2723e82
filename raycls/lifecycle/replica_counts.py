"""The counts of a version's replicas, by their ids, also of those that are gone. Their number stays bounded.

counts = with_newest(counts, {"9x3k2a": newer}, total)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

MOST = 64  # replicas whose counts are told apart
GONE = "gone"  # the sum of those that are not

Counts = TypeVar("Counts")


def with_newest(
    known: Mapping[str, Counts], newest: Mapping[str, Counts], total: Callable[[list[Counts]], Counts]
) -> dict[str, Counts]:
    """Return the known counts with the newest ones of some replicas. total: returns a sum.

    Where they have become many, those of replicas that did not answer now are one sum.
    """
    counts = {**known, **newest}
    if len(counts) <= max(MOST, 2 * len(newest)):
        return counts
    return {GONE: total([each for replica, each in counts.items() if replica not in newest]), **newest}
