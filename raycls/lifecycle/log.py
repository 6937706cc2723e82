"""A log of events that many processes write at once: nothing in it is ever changed, and no lock is needed.

    log = Log(open_place("uploads"))
    log.append([{"kind": "added", …}])       # one file, whole or absent
    log.read()                               # all events of all processes, in the order of their times

Each append is a file of its own with a random name. An event has a random id, so an event that is in two files counts
once. That makes it safe to merge files at any moment: whoever finds more than MANY writes one file with all events, and
then deletes those that it has read. Events of which neither writer knew the other's are ordered by the clocks of their
machines. This module does not know what an event means.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raycls.data.files import shown
from raycls.data.place import Place
from raycls.errors import DataError

Event = Mapping[str, Any]  # id, time (seconds since 1970) and what the writer gives

FOLDER = "log"
SUFFIX = ".jsonl"
MANY = 200  # files, above which they are merged
TICK_S = 1e-6  # between an event and one that follows from it, where a clock is behind
READERS = 16  # files read at a time: a bucket answers slowly, and many at once
TRIES = 20  # readings during which other processes merged files


class Log:
    """The log in the folder `log` of a place. It remembers what it has read, and reads only what is new."""

    def __init__(self, place: Place):
        self._place = place
        self._read: dict[str, tuple[Event, ...]] = {}
        self._events: tuple[Event, ...] = ()
        self._lock = threading.RLock()

    def append(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Write events, all or none of them, with the present time. Raises OSError.

        An event is later than all that this log has read: who decides about a picture has read that it was sent.
        """
        last = self._events[-1]["time"] if self._events else 0
        now, batch = max(time.time(), last + TICK_S), uuid.uuid4().hex
        lines = [
            json.dumps({"time": now, "id": f"{batch}-{row:06}", **event}) for row, event in enumerate(events)
        ]
        if lines:
            self._place.put(f"{FOLDER}/{batch}{SUFFIX}", "".join(f"{line}\n" for line in lines).encode())
            if len(self._read) > MANY:
                self._merge()

    def read(self) -> tuple[Event, ...]:
        """Return all events, the oldest first. It is the same object where nothing is new.

        Raises DataError if a file is damaged, and OSError if the files cannot be read.
        """
        with self._lock:
            for _ in range(TRIES):
                names = self._names()
                new = sorted(names - self._read.keys())
                try:
                    with ThreadPoolExecutor(READERS) as pool:
                        found = dict(zip(new, pool.map(self._events_of, new), strict=True))
                except FileNotFoundError:  # it was merged into another file, which the next listing has
                    continue
                # While a folder is listed, files in it may be merged: then a listing can lack the old and the new ones.
                if names - self._names():
                    continue
                if names != self._read.keys():
                    known = self._read | found
                    self._read = {name: known[name] for name in names}
                    once = {str(event["id"]): event for file in self._read.values() for event in file}
                    self._events = tuple(
                        sorted(once.values(), key=lambda event: (event["time"], event["id"]))
                    )
                return self._events
        raise DataError("the log of uploads changes faster than it can be read: try again")

    def _names(self) -> set[str]:
        return {file.name for file in self._place.files(FOLDER) if file.name.endswith(SUFFIX)}

    def _events_of(self, name: str) -> tuple[Event, ...]:
        data = self._place.get(f"{FOLDER}/{name}")
        try:
            events = tuple(map(json.loads, data.splitlines()))
            [(event["id"], event["time"]) for event in events]
            return events
        except (ValueError, TypeError, KeyError):
            where = shown(self._place.full(f"{FOLDER}/{name}").partition("?")[0])
            raise DataError(f"{where} is damaged: restore it from a backup, or remove it") from None

    def _merge(self) -> None:
        with self._lock:
            lines = "".join(f"{json.dumps(event)}\n" for event in self.read())
            merged = list(self._read)
        self._place.put(f"{FOLDER}/{uuid.uuid4().hex}{SUFFIX}", lines.encode())
        for name in merged:
            self._place.delete(f"{FOLDER}/{name}")
