"""How much of a dataset version one sender may give: a tenth of a class, so that nobody alone changes what is learned.

    chosen, waiting = choose(pictures, former, names, trusted={"ann"})

This module knows names and counts. It knows no pixels and no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from raycls.data.class_names import ClassNames
from raycls.data.listing import Where
from raycls.data.manifest import UPLOADS
from raycls.data.prepare import MIN_IMAGES
from raycls.progress import say

MOST_OF_A_CLASS = 10  # one sender gives at most one of so many pictures of a class


@dataclass(frozen=True)
class Addition:
    """A picture that somebody sent. where: see raycls/data/readers.py."""

    sha256: str
    label: str
    sender: str
    where: Where

    @property
    def source(self) -> str:
        return UPLOADS + self.sender


def choose(
    new: Sequence[Addition], former: Sequence[tuple[str, str]], names: ClassNames, trusted: Collection[str]
) -> tuple[list[Addition], dict[str, int]]:
    """Return the pictures to add, and how many of each sender wait.

    former: source and class of each image of the version before. names: the class of each label. trusted: senders
    without a limit.
    """
    pairs = [(each.source, names.of_label[each.label]) for each in new]
    fits = within_share(former, pairs, {UPLOADS + sender for sender in trusted})
    total = Counter(label for _, label in former) + Counter(
        label for (_, label), fit in zip(pairs, fits, strict=True) if fit
    )
    taken = [fit and total[label] >= MIN_IMAGES for (_, label), fit in zip(pairs, fits, strict=True)]
    waiting = Counter(each.sender for each, take in zip(new, taken, strict=True) if not take)
    for sender, count in sorted(waiting.items()):
        say(
            f"{count:,} accepted pictures of {sender} wait for a later version: one sender gives at most a tenth of a "
            f"class, and a new class needs {MIN_IMAGES} pictures. --trust {sender} lifts the first limit"
        )
    return [each for each, take in zip(new, taken, strict=True) if take], dict(waiting)


def within_share(
    former: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]], trusted: Collection[str]
) -> list[bool]:
    """Return which new pictures, in their order, leave each source at most a tenth of a class.

    former and new: source and class of each picture. Other sources' new pictures do not count, so the order of the
    sources makes no difference. trusted: sources without a limit.
    """
    of_class, of_source = Counter(label for _, label in former), Counter(former)
    limit = {
        pair: (of_class[pair[1]] - of_source[pair]) // (MOST_OF_A_CLASS - 1) for pair in dict.fromkeys(new)
    }
    given = Counter(of_source)
    fits = []
    for pair in new:
        fits.append(pair[0] in trusted or given[pair] < limit[pair])
        given[pair] += fits[-1]
    return fits
