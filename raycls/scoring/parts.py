"""The division of a source's pictures into parts: one part is one file of scores, and what one task does.

    for part in divided(pictures(source), PartSize()): …

The same pictures always make the same parts. This module knows places and sizes, and opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict, Field

from raycls.data.readers import SEQUENTIAL, container_of, size_of
from raycls.data.sources.pictures import MISSING, PACKED, Picture


class PartSize(BaseModel):
    """Where a part ends. A part takes seconds, so that little is done again after a kill, and progress moves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int = Field(2048, ge=1, description="most pictures")
    megabytes: int = Field(32, ge=1, description="of files, after which a part of `least` pictures ends")
    least: int = Field(64, ge=1, description="pictures that a part has, however large they are")
    in_sequence: int = Field(
        16_384,
        ge=1,
        description="most pictures of a container that can only be read from its start, like a row group of Parquet",
    )


def divided(pictures: Iterable[Picture], size: PartSize) -> Iterator[list[Picture]]:
    """Yield the pictures in parts, in order. No part is empty."""
    part: list[Picture] = []
    known = 0  # bytes
    for picture in pictures:
        if part:
            most = size.in_sequence if _continues(part[-1], picture) else size.pictures
            large = known >= size.megabytes << 20 and len(part) >= size.least
            if large or len(part) >= most:
                yield part
                part, known = [], 0
        part.append(picture)
        known += 0 if picture.where[0] in (MISSING, PACKED) else size_of(picture.where)
    if part:
        yield part


def _continues(last: Picture, picture: Picture) -> bool:
    """Return whether both are in one container that is read from its start: a second part would read it again."""
    return last.where[0] in SEQUENTIAL and container_of(last.where) == container_of(picture.where)
