"""Zips that arrive in pieces: an upload that is broken off goes on where it was, and its check can be followed.

    parcels = Parcels(home.home() / "parcels", most_bytes=200 << 20)
    parcel = parcels.begin("ann", "pets", "photos.zip", size=5_000_000)
    parcels.append(parcel.id, 0, data)           # until parcel.received == parcel.size
    parcels.end(parcel.id, answer={...})

They are on the disk of one machine, for a day. This module does not look into them: raycls/lifecycle/intake.py does.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raycls.errors import DataError, RefusedError, UnknownRecordError, UploadError, UploadTooLargeError

State = Literal["arriving", "checking", "done", "failed"]
IDENTIFIER = re.compile("[0-9a-f]{32}")
KEPT_S = 24 * 3600.0
ABANDONED_S = 3600.0  # without a new piece
MOST, MOST_OF_ONE = 32, 4  # parcels that have not ended: of all senders, and of one
ENDED_OF_ONE = 8  # parcels that have ended, whose answers are kept
NAME_CHARACTERS = 200
DATA, RECORD = "data.zip", "parcel.json"


class Parcel(BaseModel):
    """One parcel. size, received: bytes. answer: what became of its pictures. error: why it was not taken."""

    model_config = ConfigDict(frozen=True)

    id: str
    sender: str
    dataset: str
    name: str
    size: int
    received: int = 0
    state: State = "arriving"
    answer: dict[str, Any] | None = None
    error: str = ""

    @property
    def is_open(self) -> bool:
        return self.state in ("arriving", "checking")


class Parcels:
    """The parcels in a folder. One process uses it. most_bytes: of a parcel. All methods raise DataError where the disk
    does not take what is written."""

    def __init__(self, folder: Path, most_bytes: int):
        self._folder, self._most_bytes = folder, most_bytes
        self._lock = threading.Lock()

    def begin(self, sender: str, dataset: str, name: str, size: int) -> Parcel:
        """Return a new parcel, which is empty. The sender's oldest one that still arrives makes room for it.

        Raises UploadTooLargeError, and RefusedError where too many of all senders are under way.
        """
        if not 0 < size <= self._most_bytes:
            raise UploadTooLargeError(
                f"a zip may have 1 to {self._most_bytes:,} bytes, not {size:,}: send it in parts"
            )
        with self._lock:
            self._remove_old()
            unfinished = [parcel for parcel in self._all() if parcel.is_open]
            own = [each for each in unfinished if each.sender == sender]
            if len(own) >= MOST_OF_ONE:
                arriving = [each for each in own if each.state == "arriving"]
                if not arriving:
                    raise RefusedError("your uploads are being checked: wait until one has ended")
                self._remove(min(arriving, key=self._changed_at))
                unfinished.pop()
            if len(unfinished) >= MOST:
                raise RefusedError(
                    "too many uploads are under way: try again in an hour, or send fewer at a time"
                )
            parcel = Parcel(
                id=secrets.token_hex(16),
                sender=sender,
                dataset=dataset,
                name=name[:NAME_CHARACTERS],
                size=size,
            )
            try:
                (self._folder / parcel.id).mkdir(parents=True, mode=0o700)
                (self._folder / parcel.id / DATA).touch(0o600)
            except OSError as error:
                raise _full(error) from error
            self._write(parcel)
        return parcel

    def append(self, identifier: str, at: int, data: bytes) -> Parcel:
        """Add a piece that begins at the byte `at`, and return the parcel. Raises RefusedError for another place."""
        with self._lock:
            parcel = self.load(identifier)
            if parcel.state != "arriving" or at != parcel.received:
                raise RefusedError(
                    f"{parcel.received:,} of {parcel.size:,} bytes are here: go on there, not at {at:,}"
                )
            if at + len(data) > parcel.size:
                raise UploadError(f"the upload was announced with {parcel.size:,} bytes, and has more")
            try:
                with (self._folder / identifier / DATA).open("r+b") as file:
                    file.seek(at)
                    file.write(data)
            except OSError as error:
                raise _full(error) from error
            received = at + len(data)
            state = "checking" if received == parcel.size else "arriving"
            return self._write(parcel.model_copy(update={"received": received, "state": state}))

    def load(self, identifier: str) -> Parcel:
        """Return a parcel. Raises UnknownRecordError where there is none, or no more."""
        try:
            if not IDENTIFIER.fullmatch(identifier):
                raise FileNotFoundError
            return Parcel.model_validate_json((self._folder / identifier / RECORD).read_bytes())
        except (FileNotFoundError, ValidationError):
            raise UnknownRecordError(
                "there is no such upload: uploads are kept for a day; send it again"
            ) from None

    def open(self, identifier: str) -> BinaryIO:
        """Open the data of a parcel for reading. Raises UnknownRecordError."""
        try:
            return (self._folder / self.load(identifier).id / DATA).open("rb")
        except FileNotFoundError:
            raise UnknownRecordError("the data of this upload is gone: send it again") from None

    def end(self, identifier: str, *, answer: dict[str, Any] | None = None, error: str = "") -> Parcel:
        """Write what became of a parcel, and remove its data."""
        with self._lock:
            parcel = self.load(identifier)
            if not parcel.is_open:
                return parcel
            changes = {"state": "done" if answer is not None else "failed", "answer": answer, "error": error}
            ended = self._write(parcel.model_copy(update=changes))
            (self._folder / identifier / DATA).unlink(missing_ok=True)
            others = [each for each in self._all() if each.sender == parcel.sender and not each.is_open]
            for old in sorted(others, key=self._changed_at, reverse=True)[ENDED_OF_ONE:]:
                self._remove(old)
        return ended

    def remove(self, identifier: str) -> None:
        """Forget a parcel. Its pictures that were taken stay in the queue."""
        with self._lock:
            self._remove(self.load(identifier))

    def tidy(self) -> list[Parcel]:
        """Remove what is old or abandoned. Return the parcels that are whole and whose check has not ended."""
        with self._lock:
            self._remove_old()
            return [parcel for parcel in self._all() if parcel.state == "checking"]

    def _write(self, parcel: Parcel) -> Parcel:
        """Replace the record in one step, so that a process that is killed leaves a whole one."""
        path = self._folder / parcel.id / RECORD
        try:
            path.with_suffix(".new").write_text(parcel.model_dump_json())
            path.with_suffix(".new").replace(path)
        except OSError as error:
            raise _full(error) from error
        return parcel

    def _all(self) -> list[Parcel]:
        found = []
        for path in self._folder.glob(f"*/{RECORD}"):
            try:
                found.append(self.load(path.parent.name))
            except UnknownRecordError:
                continue
        return found

    def _remove_old(self) -> None:
        now = time.time()
        for parcel in self._all():
            age = now - self._changed_at(parcel)
            if age > KEPT_S or (parcel.state == "arriving" and age > ABANDONED_S):
                self._remove(parcel)

    def _changed_at(self, parcel: Parcel) -> float:
        """Return when the parcel changed last, seconds since 1970."""
        try:
            return (self._folder / parcel.id / RECORD).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _remove(self, parcel: Parcel) -> None:
        shutil.rmtree(self._folder / parcel.id, ignore_errors=True)


def _full(error: OSError) -> DataError:
    return DataError(f"the server cannot keep the upload: {error.strerror}")
