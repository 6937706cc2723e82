"""Small records that are read and replaced as a whole: one JSON file each, by an id.

    experiments = Documents("experiments", Record, "experiment")
    experiments.save("a1b2c3d4", record)
    experiments.load("a1b2c3d4")

They lie in a folder of the storage path, or of the home. A file is whole or absent, also after a kill.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from raycls import progress
from raycls.data.place import open_place, telling
from raycls.errors import DataError, UnknownRecordError

Document = TypeVar("Document", bound=BaseModel)


class DamagedError(DataError):
    """One record is damaged; the others can be read."""


LONGEST_ID = 64


class Documents(Generic[Document]):
    """The records of one kind. what: a word for one of them, for messages."""

    def __init__(self, folder: str, model: type[Document], what: str):
        self._folder, self._model, self._what = folder, model, what
        self._told: set[str] = set()

    @telling()
    def save(self, identifier: str, document: Document) -> None:
        """Keep a record. Raises DataError where it cannot be written."""
        assert identifier.isalnum()
        open_place(self._folder).put(f"{identifier}.json", document.model_dump_json(indent=2).encode())

    def load(self, identifier: str) -> Document:
        """Return a record. Raises UnknownRecordError where there is none, and DataError where it cannot be read."""
        place = open_place(self._folder)
        with telling():
            known = identifier.isascii() and identifier.isalnum() and len(identifier) <= LONGEST_ID
            if not (known and place.exists(f"{identifier}.json")):
                raise UnknownRecordError(
                    f"there is no {self._what} {identifier[:LONGEST_ID]!r}: list those that exist"
                )
            content = place.get(f"{identifier}.json")
        try:
            return self._model.model_validate_json(content)
        except ValidationError as error:
            problem = str(error).splitlines()[0]
            where = f"{self._folder}/{identifier}.json"
            raise DamagedError(
                f"the record of {self._what} {identifier} is damaged: restore {where}, or remove it ({problem})"
            ) from None

    def all(self, but: Collection[str] = ()) -> list[Document]:
        """Return all records, in no order. but: ids of those that are not wanted.

        A damaged record is left out, and told once in a process. Raises DataError where the folder cannot be read.
        """
        with telling():
            files = [found.name for found in open_place(self._folder).files("")]
        wanted = {name.removesuffix(".json") for name in files if name.endswith(".json")} - set(but)
        found = []
        for identifier in sorted(wanted):
            try:
                found.append(self.load(identifier))
            except UnknownRecordError:  # it was removed at this moment
                continue
            except DamagedError as error:
                if identifier not in self._told:
                    progress.say(f"left out: {error}")
                self._told.add(identifier)
        return found


def now() -> str:
    """Return date and time as records have them: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
