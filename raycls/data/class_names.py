"""The names of classes: which spellings are the same class, and which names are refused.

    names = ClassNames.of(["café", "cafe\\u0301", "tea "])      # the labels as a source spells them
    names.classes, names.of_label["tea "]

Two spellings are one class if they differ only in Unicode's normal form or in spaces around the name. Names that differ
only in upper and lower case are refused, because a computer with another file system would see one folder. Bytes that
are no UTF-8 are shown as `\\\\xe9`. This module knows names only.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from raycls.errors import DataError
from raycls.progress import say


def printable(name: str) -> str:
    """Return a file's name as one line that every program can print and store.

    Bytes that are no UTF-8 and control characters become escapes like `\\xe9`.
    """
    if name.isprintable():  # nearly all names; the rest takes ten times as long
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        letter.encode("unicode_escape").decode() if _controls(letter) else letter for letter in text
    )


def _controls(letter: str) -> bool:
    """Return whether a letter moves the cursor or ends a line: categories Cc, Zl and Zp of Unicode."""
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp")


@dataclass(frozen=True)
class ClassNames:
    """The classes in the order of their indices, and the class of each spelling."""

    classes: tuple[str, ...]
    of_label: dict[str, str]

    @classmethod
    def of(
        cls, labels: Iterable[str], *, former: tuple[str, ...] = (), merge_case: bool = False
    ) -> ClassNames:
        """Return the classes of all spellings.

        former: the classes of the version before. They keep their places, and new classes follow in alphabetical order.
        merge_case: names that differ only in case are one class. Raises DataError for names that are empty, have
        control characters, or differ only in case.
        """
        spelled: dict[str, set[str]] = defaultdict(set)
        for label in labels:
            spelled[_plain(label)].add(label)
        for name, spellings in sorted(spelled.items()):
            if len(spellings) > 1:
                shown = ", ".join(sorted(ascii(spelling) for spelling in spellings))
                say(f"one class, {name}, is spelled in {len(spellings)} ways: {shown}")
        known = {_plain(name).casefold(): name for name in former}
        alike: dict[str, list[str]] = defaultdict(list)
        for name in sorted(spelled):
            alike[name.casefold()].append(name)
        final: dict[str, str] = {}
        for folded, same in alike.items():
            chosen = known.get(folded, same[0])
            if len({*same, _plain(chosen)}) > 1:
                if not merge_case:
                    raise DataError(
                        f"the classes {' and '.join(sorted({*same, chosen}))} differ only in upper and lower case: "
                        "rename one of them, or make one class of them with --merge-case"
                    )
                say(f"the classes {' and '.join(sorted({*same, chosen}))} become one class, {chosen}")
            final |= dict.fromkeys(same, chosen)
        added = sorted(set(final.values()) - set(former))
        of_label = {label: final[name] for name, labels in spelled.items() for label in labels}
        return cls((*former, *added), of_label)


def _plain(label: str) -> str:
    name = unicodedata.normalize("NFC", printable(label.strip())).strip()
    if not name:
        raise DataError(f"{label!r} cannot name a class: it has no letter; rename it")
    if any(map(_controls, label.strip())):
        raise DataError(f"{label!r} cannot name a class: it has control characters; rename it")
    return name
