"""What stands beside the scores, so that a killed call goes on and nothing is scored twice.

    ledger = Ledger("scores/")
    ledger.begin(plan)                  # _ledger/plan.json
    ledger.list_part(0, listed, digest)     # _ledger/listing/00000000.gz
    ledger.write_part(0, scores)        # part-00000000.parquet: written aside and renamed, so it is whole or absent

A part's file of scores is the record that the part is done. Names that begin with an underscore are left out by what
reads folders of Parquet. This module knows files, and nothing of models.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Literal, TypeVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from raycls.config import Engine
from raycls.data.files import shown
from raycls.data.place import Place, place_at
from raycls.data.sources.pictures import Picture
from raycls.engines.rejection import Rejection
from raycls.errors import DataError, UsageError
from raycls.scoring.parts import PartSize

Format = Literal["parquet", "csv"]
FOLDER = "_ledger"
PLAN, LISTING, TOTALS = f"{FOLDER}/plan.json", f"{FOLDER}/listing.json", f"{FOLDER}/totals.json"
Record = TypeVar("Record", bound=BaseModel)


class Plan(BaseModel):
    """What is scored, and how. It never changes, also where the champion does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="the model as the caller named it")
    version: str = Field(description="the version that it was at the start, NAME/VERSION")
    sha256: str = Field(description="of the version's checkpoint")
    engine: Engine | None = Field(None, description="decided when the cluster is known")
    rejection: Rejection | None
    source: str = Field(description="without a password, and without the values after a question mark")
    source_digest: str = Field(description="of the address with these values: they may name another server")
    format: Format
    top_k: int
    embedding: bool
    part: PartSize
    begun: str = Field(description="date and time, UTC")


class Listing(BaseModel):
    """The end of the listing. fingerprint: a digest of the names, places and sizes of all pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: int
    pictures: int
    fingerprint: str


class Totals(BaseModel):
    """What the scores hold, when all are written. rejected: None for a version without thresholds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int
    errors: int
    rejected: int | None
    ended: str


class Ledger:
    """A folder or a bucket that scores are written to. Its methods raise DataError, which says what to do."""

    def __init__(self, output: str):
        self._output = output

    @cached_property
    def _place(self) -> Place:
        return place_at(self._output)

    def plan(self) -> Plan | None:
        """Return the plan of the call that began, or None for a new output."""
        return self._read(PLAN, Plan)

    def begin(self, plan: Plan) -> None:
        """Write the plan; once more when its engine is decided."""
        self._put(PLAN, plan.model_dump_json(indent=1).encode())

    def holds_anything(self) -> bool:
        with self._telling("read"):
            return bool(self._place.files(""))

    def listing(self) -> Listing | None:
        """Return the end of the listing, or None as long as it goes on."""
        return self._read(LISTING, Listing)

    def end_listing(self, listing: Listing) -> None:
        self._put(LISTING, listing.model_dump_json(indent=1).encode())

    def totals(self) -> Totals | None:
        """Return the totals where all is written, else None."""
        return self._read(TOTALS, Totals)

    def finish(self, totals: Totals) -> None:
        self._put(TOTALS, totals.model_dump_json(indent=1).encode())

    def list_part(self, number: int, pictures: bytes, digest: str) -> None:
        """Write which pictures a part has, as JSON. digest: of these and of all before them."""
        self._put(_listed(number), gzip.compress(digest.encode() + b"\n" + pictures, 1))

    def digest(self, number: int) -> str:
        """Return the digest that a part was listed with, or "" if it was not."""
        content = self._get(_listed(number))
        return gzip.decompress(content).partition(b"\n")[0].decode() if content is not None else ""

    def pictures(self, number: int) -> list[Picture]:
        """Return the pictures of a part that is listed."""
        content = self._get(_listed(number))
        if content is None:
            raise self._refusal("read", f"{_listed(number)} is gone")
        found = json.loads(gzip.decompress(content).partition(b"\n")[2])
        return [Picture(name, tuple(where)) for name, where in found]

    def written(self) -> set[int]:
        """Return the numbers of the parts whose scores are written."""
        with self._telling("read"):
            files = self._place.files("", below=False)
        found = (re.fullmatch(r"part-(\d{8,})\.\w+", file.name) for file in files)
        return {int(match[1]) for match in found if match}

    def write_part(self, number: int, scores: bytes, kind: Format) -> None:
        self._put(_scores(number, kind), scores)

    def scores(self, number: int, kind: Format) -> bytes | None:
        """Return a part's file of scores, or None if it is not written."""
        return self._get(_scores(number, kind))

    def begun_again(self, number: int) -> int:
        """Note that a process which took the place of a dead one begins a part. Return how often that was."""
        path = f"{FOLDER}/again/{number:08}"
        count = int(self._get(path) or 0) + 1
        self._put(path, str(count).encode())
        return count

    def _read(self, path: str, kind: type[Record]) -> Record | None:
        content = self._get(path)
        try:
            return kind.model_validate_json(content) if content is not None else None
        except ValueError as error:
            raise DataError(
                f"{shown(self._place.full(path))} is not a record of this raycls: {str(error).splitlines()[0]}. "
                "Write to a new output"
            ) from None

    def _get(self, path: str) -> bytes | None:
        try:
            with self._telling("read"):
                return self._place.get(path)
        except FileNotFoundError:
            return None

    def _put(self, path: str, content: bytes) -> None:
        with self._telling("written"):
            self._place.put(path, content)

    @contextlib.contextmanager
    def _telling(self, done: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if done == "read":
                raise
            raise self._refusal(done, "the folder is gone") from None
        except OSError as error:
            reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
            raise self._refusal(done, shown(reason)) from error

    def _refusal(self, done: str, reason: str) -> DataError:
        return DataError(
            f"{shown(self._output)} cannot be {done}: {reason}. What is written there stays: mend that, and run the "
            "same command again"
        )


def known_format(name: str) -> Format:
    """Return the format of this name. Raises UsageError."""
    found: Format | None = next((each for each in get_args(Format) if each == name), None)
    if found is None:
        raise UsageError(f"scores are written as {' or '.join(get_args(Format))}, and not as {name}")
    return found


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _listed(number: int) -> str:
    return f"{FOLDER}/listing/{number:08}.gz"


def _scores(number: int, kind: Format) -> str:
    return f"part-{number:08}.{kind}"
