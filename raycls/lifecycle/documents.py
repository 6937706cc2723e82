"""Small records that are read and replaced as a whole: one JSON file each, by an id.

    experiments = Documents("experiments", Record, "experiment")
    experiments.save("a1b2c3d4", record)
    experiments.load("a1b2c3d4")

They lie in a folder of the storage path, or of the home. A file is whole or absent, also after a kill.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from raycls.data.place import open_place, telling
from raycls.errors import DataError, UnknownRecordError

Document = TypeVar("Document", bound=BaseModel)
LONGEST_ID = 64


class Documents(Generic[Document]):
    """The records of one kind. what: a word for one of them, for messages."""

    def __init__(self, folder: str, model: type[Document], what: str):
        self._folder, self._model, self._what = folder, model, what

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
            raise DataError(f"the record of {self._what} {identifier} is damaged: {problem}") from None

    def all(self) -> list[Document]:
        """Return all records, in no order. Raises DataError."""
        with telling():
            names = [found.name for found in open_place(self._folder).files("")]
        return [self.load(name.removesuffix(".json")) for name in names if name.endswith(".json")]


def now() -> str:
    """Return date and time as records have them: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
