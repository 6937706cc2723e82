"""The limits of what people may send.

UploadLimits(files=100)
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from raycls.data.decode import MAX_PIXELS


class UploadLimits(BaseModel):
    """The limits of one request and of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    formats: tuple[str, ...] | None = Field(
        None, description="accepted formats, by Pillow's names; none: all that a preparation reads"
    )
    picture_bytes: int = Field(20 << 20, ge=1, description="largest picture, bytes")
    pixels: int = Field(MAX_PIXELS, ge=1, description="most pixels (width × height) of a picture")
    # A small file can have many pixels, and each takes time.
    pixels_of_all: int = Field(
        10**10, ge=1, description="most pixels of all pictures of one request together"
    )
    files: int = Field(10_000, ge=1, description="most pictures of one request, also in an archive")
    archive_bytes: int = Field(512 << 20, ge=1, description="largest archive, bytes")
    unpacked_bytes: int = Field(1 << 30, ge=1, description="most bytes of an archive's files, decompressed")
    entries: int = Field(20_000, ge=1, description="most entries of an archive, folders too")
    quota_bytes: int = Field(20 << 30, ge=1, description="most bytes of all stored pictures together")
    waiting_feedback: int = Field(
        100_000, ge=1, description="most feedback that waits for a review; more is refused"
    )
    labels: int = Field(1000, ge=1, description="most different labels of one request")
    label_characters: int = Field(100, ge=1, description="longest label")


USUAL = UploadLimits()
