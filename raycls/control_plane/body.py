"""The body of a request to the control plane, read within limits.

    wanted = await document_of(request, Start)          # a pydantic model
    async with form_of(request, limit) as form: …       # files are spooled to disk
    async with file_of(request, limit) as file: …       # the raw body

All raise HTTPProblem 413 for more bytes than the limit, as soon as they have arrived, 408 for a body that comes too
slowly, and 400 for what cannot be read.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO, TypeVar, cast

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect, Request

from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.replica.request import parsed

LARGEST_DOCUMENT = 1 << 20  # bytes of a JSON body
MOST_FILES = 10_000
# A body may take so many seconds, and one more for so many bytes that have arrived: it must not hold a place for hours.
PATIENCE_S, SLOWEST = 30.0, 64 << 10
IN_MEMORY = 1 << 20  # bytes of a file; larger ones go to disk

Document = TypeVar("Document", bound=BaseModel)


async def document_of(request: Request, model: type[Document]) -> Document:
    """Return the JSON body as `model`. An empty body is an empty object."""
    body = b"".join([piece async for piece in pieces(request, LARGEST_DOCUMENT)])
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise HTTPProblem(400, "; ".join(_complaints(error))[:500]) from None


@asynccontextmanager
async def file_of(request: Request, limit: int) -> AsyncIterator[BinaryIO]:
    """Yield the raw body as a file at its beginning."""
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as file:
        async for piece in pieces(request, limit):
            file.write(piece)
        file.seek(0)
        yield cast(BinaryIO, file)


@asynccontextmanager
async def form_of(request: Request, limit: int) -> AsyncIterator[FormData]:
    """Yield the fields and the files of a multipart form."""
    parser = MultiPartParser(request.headers, pieces(request, limit), max_files=MOST_FILES, max_fields=8)
    form = await parsed(parser)
    try:
        yield form
    finally:
        await form.close()


def wanted_int(query: Mapping[str, str], name: str, otherwise: int) -> int:
    """Return a whole number from 1 in the query, or `otherwise` where it is absent. Raises HTTPProblem 400."""
    text = query.get(name, str(otherwise))
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise HTTPProblem(400, f"{name} must be a whole number from 1, not {text[:40]!r}")
    return int(text)


def wanted_state(query: Mapping[str, str], states: Sequence[str]) -> str | None:
    """Return the query's `state`, default waiting; None for `all`. Raises HTTPProblem 400."""
    state = query.get("state", "waiting")
    if state not in (*states, "all"):
        raise HTTPProblem(400, f"state must be one of {', '.join(states)} or all")
    return None if state == "all" else state


async def pieces(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives."""
    began, size, stream = time.monotonic(), 0, request.stream()
    while True:
        left = began + PATIENCE_S + size / SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                piece = await anext(stream, None)
        except TimeoutError:
            slow = f"the body comes too slowly: {size:,} bytes in {time.monotonic() - began:.0f} s"
            raise HTTPProblem(408, slow, {"Connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPProblem(400, "the client left before the end of the body") from None
        if piece is None:
            return
        size += len(piece)
        if size > limit:
            raise HTTPProblem(413, f"the body is larger than {limit:,} bytes", {"Connection": "close"})
        yield piece


def _complaints(error: ValidationError) -> list[str]:
    found = ((".".join(map(str, item["loc"])) or "the body", item["msg"]) for item in error.errors())
    return [f"{place}: {said[0].lower()}{said[1:]}" for place, said in found]
