"""Which class a label that a stranger gave means.

found = resolve(["Cat", "../x"], known=("cat", "dog"), limits=UploadLimits())
found.class_of["Cat"], found.refused["../x"]       # "cat", why it is refused
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from raycls.data.class_names import ClassNames
from raycls.errors import DataError, UploadError, UploadTooLargeError
from raycls.lifecycle.limits import USUAL, UploadLimits
from raycls.lifecycle.uploads import Uploads

DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # Unicode Standard Annex 9


class Resolved(NamedTuple):
    """The class of each label, and why the others cannot name one."""

    class_of: dict[str, str]
    refused: dict[str, str]


def resolve(labels: Iterable[str], known: Iterable[str], limits: UploadLimits) -> Resolved:
    """Return the classes that labels mean: known ones, or new ones. Case and spaces make no difference.

    Raises UploadTooLargeError for too many labels.
    """
    labels, known = sorted(set(labels)), dict.fromkeys(known)
    if len(labels) > limits.labels:
        raise UploadTooLargeError(f"more than {limits.labels:,} different labels: send the pictures in parts")
    refused = {label: reason for label in labels if label not in known and (reason := _fault(label, limits))}
    others = [label for label in labels if label not in known and label not in refused]
    exact = {label: label for label in labels if label in known}
    found = ClassNames.of(others, former=tuple(known), merge_case=True).of_label
    return Resolved(exact | found, refused)


def class_of(label: str, known: Iterable[str], limits: UploadLimits = USUAL) -> str:
    """Return the class that a label means. Raises UploadError if no class can have that name."""
    found = resolve([label], known, limits)
    if label in found.refused:
        raise UploadError(found.refused[label])
    return found.class_of[label]


def classes_of(uploads: Uploads, name: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes of a dataset, and the new ones that pictures in its queue have."""
    labels = {record.label for record in uploads.of(name) if record.state in ("waiting", "accepted")}
    return (*classes, *sorted(labels - set(classes)))


def _fault(label: str, limits: UploadLimits) -> str:
    """Return why no class can have this name, or ""."""
    if len(label) > limits.label_characters:
        return f"the label has more than {limits.label_characters} characters: choose a shorter one"
    if any(map(_misleads, label)):
        return f"{label!a} cannot name a class: it has letters that nobody sees; remove them"
    try:
        (name,) = ClassNames.of([label]).classes
    except DataError as error:
        return str(error)
    if {"", ".", ".."} & set(name.split("/")) or "\\" in name:
        return f"{name!r} cannot name a class: no folder of pictures has such a name; choose another"
    return ""


def _misleads(letter: str) -> bool:
    """Return whether a letter is half of one (a lone surrogate), or turns the direction of those after it."""
    return unicodedata.category(letter) == "Cs" or unicodedata.bidirectional(letter) in DIRECTIONS
