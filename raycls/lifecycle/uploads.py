"""The store of the pictures that people sent or that were captured: each once, by the SHA-256 of its bytes.

    uploads = Uploads()                           # under $RAYCLS_STORAGE, else under $RAYCLS_HOME
    uploads.records().of["pets", sha256].state    # "waiting"

    uploads/pictures/8c/8c1d0f…                   the bytes of a picture
    uploads/log/…                                 who sent it, as what, and what was decided: raycls/lifecycle/log.py

A picture is written before its record, so a record always has its picture. No path is made of a label, a file name or a
sender. Many processes may use one store. raycls/lifecycle/intake.py adds pictures, review.py decides about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from raycls.data.listing import Where
from raycls.data.place import Place, open_place, place_at, where_is
from raycls.lifecycle.log import Event, Log
from raycls.lifecycle.records import Record, Records, records_of

PICTURES = "pictures"
ORPHAN_S = 3600  # age from which a picture without a record is the rest of a killed request


class Uploads:
    """The store in a place; the default is `uploads` on the storage path. Opening it touches nothing.

    Its methods raise DataError if the log is damaged, and OSError if the files cannot be read or written. Threads may
    share it.
    """

    def __init__(self, place: Place | None = None):
        self._place = place or open_place("uploads")
        self._log = Log(self._place)
        self._sum: tuple[tuple[Event, ...], Records] = ((), records_of(()))

    @staticmethod
    def of_process() -> Uploads:
        """Return the store that this process shares: it reads only what is new in the log since its last call."""
        return _uploads_at(where_is("uploads"))

    def records(self) -> Records:
        """Return what all processes have written until now."""
        events = self._log.read()
        if events is not self._sum[0]:
            self._sum = (events, records_of(events))
        return self._sum[1]

    def of(self, name: str) -> list[Record]:
        """Return the records of a dataset, the oldest first."""
        found = [record for (each, _), record in self.records().of.items() if each == name]
        return sorted(found, key=lambda record: (record.time, record.sha256))

    def write(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events to the log, all or none."""
        self._log.append(events)

    def keep(self, sha256: str, data: bytes) -> None:
        """Store a picture, if it is not there."""
        if not self.has(sha256):
            self._place.put(_path(sha256), data)

    def has(self, sha256: str) -> bool:
        """Return whether the bytes of a picture are stored."""
        return self._place.exists(_path(sha256))

    def picture(self, sha256: str) -> bytes:
        """Return the bytes of a picture. Raises FileNotFoundError."""
        return self._place.get(_path(sha256))

    def where(self, record: Record) -> Where:
        """Return where raycls/data/readers.py finds the bytes of a picture."""
        return ("file", self._place.full(_path(record.sha256)), record.size, 0)

    def drop(self, sha256: str) -> None:
        """Delete a picture that no record needs. Where another process adds it at this moment, it stays."""
        if sha256 in self.records().live():
            return
        try:
            data = self._place.get(_path(sha256))
        except FileNotFoundError:
            return
        self._place.delete(_path(sha256))
        if sha256 in self.records().live():
            self.keep(sha256, data)

    def tidy(self) -> int:
        """Delete the pictures that killed requests left without a record. Return how many."""
        orphans = {file.name for file in self._place.files(PICTURES) if file.age > ORPHAN_S}
        orphans -= self.records().live()
        for sha256 in orphans:
            self.drop(sha256)
        return len(orphans)


@lru_cache(maxsize=8)
def _uploads_at(where: str) -> Uploads:
    return Uploads(place_at(where))


def _path(sha256: str) -> str:
    return f"{PICTURES}/{sha256[:2]}/{sha256}"
