"""What a request asks for: its query and its encoded images.

    images, many = await images_of(headers_of(request), body, max_images=64)

Every input that cannot be served ends in an HTTPProblem, whatever its bytes. Images stay encoded: the inference decodes
them and says which is broken. Nothing here fetches a URL.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from raycls.data.decode import pixels_of
from raycls.errors import ImageError
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.settings import FORMATS

ACCEPTED = "send image/*, application/octet-stream, multipart/form-data or application/json"


class Wanted(NamedTuple):
    """What a query asks for beside the most probable class."""

    top_k: int = 0
    explain: bool = False
    embedding: bool = False


_NOTHING_MORE = Wanted()


def wanted_of(request: Request) -> Wanted:
    """Return what the query asks for. Raises HTTPProblem 400. An empty one, which most requests have, is not parsed."""
    if not request.scope["query_string"]:
        return _NOTHING_MORE
    query = request.query_params
    return Wanted(_top_k(query), _flag(query, "explain"), _flag(query, "embedding"))


def headers_of(request: Request) -> dict[str, str]:
    """Return the headers by their names in lower case, the first of each name.

    `request.headers` looks through all of them whenever it is asked for one.
    """
    return {
        name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(request.scope["headers"])
    }


def _top_k(query: Mapping[str, str]) -> int:
    text = query.get("top_k", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPProblem(400, f"top_k must be a whole number from 0, not {text[:40]!r}")
    return int(text)


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise HTTPProblem(400, f"{name} must be true or false, not {text[:40]!r}")
    return text == "true"


async def images_of(headers: Mapping[str, str], body: bytes, max_images: int) -> tuple[list[bytes], bool]:
    """Return the encoded images of a request, in order, and whether the answer is a list of predictions.

    headers: by their names in lower case.

    Raises HTTPProblem: 400 malformed, 413 more than max_images, 415 for a content type that is not accepted.
    """
    kind = headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind == "application/octet-stream" or kind.startswith("image/"):
        images, many = [body], False
    elif kind == "application/json":
        images, many = _from_json(body, max_images)
    elif kind == "multipart/form-data":
        images = await _from_form(headers, body, max_images)
        many = len(images) > 1
    else:
        raise HTTPProblem(415, f"content type {kind[:80]!r} is not accepted: {ACCEPTED}")
    return images, many


def check_count(count: int, max_images: int) -> None:
    """Raise HTTPProblem 413 for more images than one request may have."""
    if count > max_images:
        raise HTTPProblem(413, f"{count} images in one request; at most {max_images} are accepted")


def check_pixels(images: Sequence[bytes], most: int) -> None:
    """Raise HTTPProblem 413 for images that have more pixels together than one image may have."""
    total = 0
    for image in images:
        with suppress(ImageError):  # the inference reports it
            total += pixels_of(image, max_pixels=most, formats=FORMATS)
    if total > most:
        raise HTTPProblem(413, f"the images have {total:,} pixels together; at most {most:,} are accepted")


def _from_json(body: bytes, max_images: int) -> tuple[list[bytes], bool]:
    shape = 'the JSON body must be {"image_base64": "…"} or {"images_base64": ["…", …]}'
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPProblem(400, f"the body is not valid JSON: {str(error)[:200]}") from None
    match document:
        case {"image_base64": str(text), **rest} if not rest:
            return [_from_base64(text, "image_base64")], False
        case {"images_base64": [_, *_] as texts, **rest} if not rest and all(
            isinstance(t, str) for t in texts
        ):
            check_count(len(texts), max_images)  # before the first is decoded
            return [_from_base64(text, f"images_base64[{i}]") for i, text in enumerate(texts)], True
    raise HTTPProblem(400, shape)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _from_base64(text: str, field: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPProblem(400, f"{field} is not valid base64: {error}") from None


async def _from_form(headers: Mapping[str, str], body: bytes, max_images: int) -> list[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    # One file more than accepted, so that check_count refuses the count. Other fields have no meaning here.
    parser = MultiPartParser(Headers(headers), stream(), max_files=max_images + 1, max_fields=8)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # the body is in memory: its parts need no disk
    form = await parsed(parser)
    files = [value for key, value in form.multi_items() if key == "file" and isinstance(value, UploadFile)]
    if not files:
        raise HTTPProblem(400, "the form has no file in a field called 'file', as in curl -F file=@cat.png")
    check_count(len(files), max_images)
    return [await file.read() for file in files]


async def parsed(parser: MultiPartParser) -> FormData:
    """Return the form that the parser reads. Raises HTTPProblem: 413 for too many files, 400 for what is no form."""
    try:
        return await parser.parse()
    except MultiPartException as error:
        status = 413 if "Too many files" in error.message else 400
        raise HTTPProblem(status, f"the form cannot be read: {error.message}") from None
    except (KeyError, ValueError, LookupError) as error:
        raise HTTPProblem(400, f"the form cannot be read: {type(error).__name__}") from None
