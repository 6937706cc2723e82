"""The review queue: what waits, and what a person decides about it.

    page = list_uploads(uploads, "pets", state="waiting")
    accept(uploads, "pets", [page.records[0].sha256], by="eve")

A decision that changes nothing writes nothing. A picture that is in a dataset version stays there until the next one is
made: `raycls data prepare pets --add-uploads`. This module does not know who may decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from raycls.data.exclusion import DIGEST, remember_forgotten
from raycls.data.forget import forget
from raycls.data.place import telling
from raycls.errors import UnknownRecordError, UsageError
from raycls.lifecycle.intake import check_sender
from raycls.lifecycle.labels import class_of, classes_of
from raycls.lifecycle.records import REVIEWED, Record, State
from raycls.lifecycle.uploads import Uploads

PREFIX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Page:
    """A part of the queue. total: the records of all pages. page: from 1 to pages. classes: the dataset's."""

    records: tuple[Record, ...]
    total: int
    page: int
    pages: int
    classes: tuple[str, ...]

    def is_new_class(self, record: Record) -> bool:
        """Return whether the dataset has no class of the record's label."""
        return record.label not in self.classes

    def as_json(self) -> dict[str, Any]:
        rows = [{**record.as_json(), "new_class": self.is_new_class(record)} for record in self.records]
        return {
            "uploads": rows,
            "total": self.total,
            "page": self.page,
            "pages": self.pages,
            "classes": self.classes,
        }


@telling()
def list_uploads(
    uploads: Uploads,
    name: str,
    *,
    classes: tuple[str, ...],
    state: State | None = "waiting",
    sender: str | None = None,
    label: str | None = None,
    captured: bool = True,
    page: int = 1,
    size: int = 100,
) -> Page:
    """Return a page of a dataset's records, the oldest first.

    classes: those of the dataset. state: None for every state. captured: with the captured pictures, which only an
    admin may see. size: records on a page. Raises UsageError for a page below 1.
    """
    if page < 1 or size < 1:
        raise UsageError(f"page {page} of {size} pictures does not exist: pages begin with 1")
    found = [
        record
        for record in uploads.of(name)
        if state in (None, record.state)
        and sender in (None, record.sender)
        and label in (None, record.label)
        and (captured or record.source != "captured")
    ]
    first = (page - 1) * size
    pages = max(1, -(-len(found) // size))
    return Page(tuple(found[first : first + size]), len(found), page, pages, classes)


def accept(uploads: Uploads, name: str, shas: Iterable[str], *, by: str) -> list[Record]:
    """Accept pictures: the next dataset version has them. Return their records.

    shas: SHA-256 digests, or their first 8 digits or more. by: who decides. Raises UnknownRecordError if the queue has
    no such picture, before any is accepted, and UsageError if a beginning fits several.
    """
    return _decide(uploads, name, list(shas), by, "accepted", None)


def reject(uploads: Uploads, name: str, shas: Iterable[str], *, by: str) -> list[Record]:
    """Reject pictures: no later dataset version has them. Return their records. Raises the errors of `accept`."""
    return _decide(uploads, name, list(shas), by, "rejected", None)


def relabel(
    uploads: Uploads, name: str, sha256: str, label: str, *, by: str, classes: tuple[str, ...]
) -> Record:
    """Accept a picture as one of another class. Return its record.

    classes: those of the dataset. Raises UploadError if the label cannot name a class, and the errors of `accept`.
    """
    with telling():
        found = class_of(label, classes_of(uploads, name, classes))
    (record,) = _decide(uploads, name, [sha256], by, "accepted", found)
    return record


@telling()
def purge(uploads: Uploads, sha256: str, *, by: str) -> list[str]:
    """Remove a picture everywhere: from the store, the queues and all dataset versions. Return the versions changed.

    Its record stays, without the picture, and says who purged it. The picture is never taken again. A second call
    finishes what an interrupted first one began. Raises UnknownRecordError if nobody has such a picture, BusyError if a
    dataset is being prepared, and the errors of `raycls.data.forget.forget`.
    """
    check_sender(by)
    records = uploads.records()
    known = {each for _, each in records.of} | records.purged
    sha256 = _whole(sha256, known)
    if sha256 in known:
        _note_purge(uploads, sha256, by)
        uploads.drop(sha256)
        remember_forgotten(sha256)
        return forget(sha256)
    try:
        changed = forget(sha256)
    except UsageError as error:
        raise UnknownRecordError(f"no upload and {str(error).removeprefix('no ')}") from None
    _note_purge(uploads, sha256, by)
    uploads.drop(sha256)
    return changed


def _note_purge(uploads: Uploads, sha256: str, by: str) -> None:
    if sha256 not in uploads.records().purged:
        uploads.write([{"kind": "purged", "sha256": sha256, "by": by}])


@telling()
def _decide(
    uploads: Uploads, name: str, shas: Sequence[str], by: str, state: State, label: str | None
) -> list[Record]:
    check_sender(by)
    of = {sha256: record for (each, sha256), record in uploads.records().of.items() if each == name}
    events = []
    chosen = list(dict.fromkeys(_whole(sha256, of) for sha256 in shas))
    for sha256 in chosen:
        record = of.get(sha256)
        if record is None or record.state not in REVIEWED:
            why = f"it is {record.state}" if record else "nobody has sent it"
            raise UnknownRecordError(
                f"no picture {sha256[:12]} of {name} can be reviewed: {why}. `raycls uploads list {name}` shows "
                "the queue"
            )
        if (record.state, record.label) != (state, label or record.label):
            change = {"label": label} if label else {}
            events.append(
                {"kind": "decided", "name": name, "sha256": sha256, "by": by, "state": state, **change}
            )
    uploads.write(events)
    after = [uploads.records().of[name, sha256] for sha256 in chosen]
    if gone := [record.sha256 for record in after if record.state not in REVIEWED]:
        raise UnknownRecordError(
            f"picture {gone[0][:12]} of {name} was deleted at this moment: look at the queue again"
        )
    return after


def _whole(prefix: str, known: Iterable[str]) -> str:
    """Return the digest that begins so, or what was given if it is a whole digest."""
    prefix = prefix.lower()
    if DIGEST.fullmatch(prefix):
        return prefix
    if not PREFIX.fullmatch(prefix):
        raise UsageError(f"{prefix[:80]!r} is no SHA-256: give its first 8 hex digits or more")
    found = [sha256 for sha256 in known if sha256.startswith(prefix)]
    if len(found) != 1:
        what = f"{len(found)} pictures begin with {prefix}: give more digits"
        raise (
            UsageError(what)
            if found
            else UnknownRecordError(f"no picture begins with {prefix}: see `raycls uploads list`")
        )
    return found[0]
