"""HTTP in and out of a classifier: a request's body becomes encoded images, a failure an RFC 9457 problem document.

    body = await read_body(request, limit=10 * 2**20, timeout_s=20, arrivals=arrivals)
    images, many = await images_of(request.headers, body, max_images=64)
    return problem_of(ImageError("the image is empty: 0 bytes"))

Every input that cannot be served ends in an HTTPProblem or an ImageError, whatever its bytes. Images are passed on
encoded: decoding them, and saying that one is broken, is the classifier's part. Never fetches a URL.
"""

from __future__ import annotations

import asyncio
import binascii
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from raycls.errors import ImageError, ImageTooLargeError, NotAnImageError
from raycls.ray_patches.haproxy_rules import FULL, MAX_PENDING, RETRY_AFTER_S
from raycls.serving.replica.batching import ClientGone

ACCEPTED = "send image/*, application/octet-stream, multipart/form-data or application/json"


class HTTPProblem(Exception):
    """A request that gets an error answer: its status, one sentence for people, and extra headers."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers

    def response(self) -> Response:
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return Response(
            json.dumps(document),
            self.status,
            headers=dict(self.headers or {}),
            media_type="application/problem+json",
        )


def problem_of(error: ImageError, which: str = "") -> HTTPProblem:
    """415 for bytes that are no image, 413 for too many pixels, 400 for a damaged image; `which` begins the words."""
    by_kind = {NotAnImageError: 415, ImageTooLargeError: 413}
    return HTTPProblem(by_kind.get(type(error), 400), f"{which}{error}")


def answer(document: Any) -> Response:
    return Response(json.dumps(document), media_type="application/json")


def top_k_of(request: Request) -> int:
    """The query's `top_k`, 0 where it is absent."""
    text = _queried(request, "top_k", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPProblem(400, f"top_k must be a whole number from 0, not {text[:40]!r}")
    return int(text)


def explain_of(request: Request) -> bool:
    """The query's `explain`, false where it is absent."""
    text = _queried(request, "explain", "false")
    if text not in ("true", "false"):
        raise HTTPProblem(400, f"explain must be true or false, not {text[:40]!r}")
    return text == "true"


def _queried(request: Request, name: str, otherwise: str) -> str:
    """A query that is empty, as most are, is not parsed."""
    return request.query_params.get(name, otherwise) if request.scope["query_string"] else otherwise


def _cycle(request: Request) -> Any:
    """uvicorn's RequestResponseCycle, what it knows of the connection; None behind Ray's own proxy."""
    cycle = getattr(request.receive, "__self__", None)
    return cycle if hasattr(cycle, "disconnected") else None


def connected(request: Request) -> Callable[[], bool]:
    """Whether the client is still there, for any thread to ask, without awaiting it.

    To be called when the body is read. Behind Ray's own proxy, where Ray cancels the request of a client that leaves,
    always.
    """
    cycle = _cycle(request)
    if cycle is None:
        return lambda: True
    # After a large piece of a body uvicorn reads no more until it is asked to, and would not see the end.
    cycle.flow.resume_reading()
    return lambda: not cycle.disconnected


def busy(what: str) -> HTTPProblem:
    """429 for who may come back in a moment."""
    return HTTPProblem(429, f"{what}: try again in a moment", {"Retry-After": str(RETRY_AFTER_S)})


def full(max_pending: int) -> HTTPProblem:
    """429 from a replica that holds so many requests: HAProxy then refuses those that are more than that itself."""
    headers = {"Retry-After": str(RETRY_AFTER_S), MAX_PENDING: str(max_pending)}
    return HTTPProblem(429, str(FULL["detail"]), headers)


class IncomingBodies:
    """Bodies on their way, not too many nor too large together: the one that began first makes room for others.

    Who sends at once is through before anybody could overtake; who dawdles keeps nobody out.
    """

    def __init__(self, count: int, size: int):
        self._count, self._free = count, size
        self._sizes: dict[asyncio.Timeout, int] = {}  # bytes of each so far, the oldest first

    def __contains__(self, body: asyncio.Timeout) -> bool:
        return body in self._sizes

    def begin(self, body: asyncio.Timeout) -> None:
        """A further body, known by its timeout, which ends early where it has to make room."""
        while len(self._sizes) >= self._count:
            self._end_oldest()
        self._sizes[body] = 0

    def grow(self, body: asyncio.Timeout, size: int) -> None:
        if body not in self._sizes:  # it has made room, and will hear of that when it waits
            return
        self._sizes[body] += size
        self._free -= size
        while self._free < 0 and body in self._sizes:
            self._end_oldest()

    def end(self, body: asyncio.Timeout) -> None:
        self._free += self._sizes.pop(body, 0)

    def _end_oldest(self) -> None:
        oldest = next(iter(self._sizes))
        self.end(oldest)
        with suppress(RuntimeError):  # it is ending already
            oldest.reschedule(0)


async def read_body(request: Request, limit: int, timeout_s: float, arrivals: IncomingBodies) -> bytes:
    """The whole body, at most `limit` bytes: refused by its declared length, else as soon as it has grown past it.

    Raises HTTPProblem: 413, 408 when it has not arrived after timeout_s or made room for others. ClientGone when the
    connection closes before.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    cycle = _cycle(request)
    if cycle and not cycle.more_body:  # all here, as most are: nothing to time, and no room needed
        return await _pieces(request, limit, lambda size: None)
    body = asyncio.timeout(timeout_s)
    arrivals.begin(body)
    try:
        async with body:
            return await _pieces(request, limit, lambda size: arrivals.grow(body, size))
    except TimeoutError:
        late = f"the body did not arrive within {timeout_s:g} s"
        if body not in arrivals:
            late = "the body had not arrived when others needed its place"
        raise HTTPProblem(408, late, {"Connection": "close"}) from None
    finally:
        arrivals.end(body)


async def _pieces(request: Request, limit: int, grown: Callable[[int], None]) -> bytes:
    """All that is sent, joined; grown is told the size of each piece. Raises HTTPProblem 413, ClientGone."""
    pieces, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
        grown(len(piece))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> HTTPProblem:
    return HTTPProblem(413, f"the body is larger than {limit:,} bytes")


async def images_of(headers: Headers, body: bytes, max_images: int) -> tuple[list[bytes], bool]:
    """The encoded images of a request, in order, and whether the answer is a list of predictions.

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


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise HTTPProblem(413, f"{count} images in one request; at most {max_images} are accepted")


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
            _check_count(len(texts), max_images)  # before each is decoded
            return [_from_base64(text, f"images_base64[{i}]") for i, text in enumerate(texts)], True
    raise HTTPProblem(400, shape)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _from_base64(text: str, field: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPProblem(400, f"{field} is not valid base64: {error}") from None


async def _from_form(headers: Headers, body: bytes, max_images: int) -> list[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    # One more than accepted, so that the count is refused by its own rule; other fields have no meaning here.
    parser = MultiPartParser(headers, stream(), max_files=max_images + 1, max_fields=8)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # the body is in memory already: keep its parts off the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if "Too many files" in error.message else 400
        raise HTTPProblem(status, f"the form cannot be read: {error.message}") from None
    except (KeyError, ValueError, LookupError) as error:
        raise HTTPProblem(400, f"the form cannot be read: {type(error).__name__}") from None
    files = [value for key, value in form.multi_items() if key == "file" and isinstance(value, UploadFile)]
    if not files:
        raise HTTPProblem(400, "the form has no file in a field called 'file', as in curl -F file=@cat.png")
    _check_count(len(files), max_images)
    return [await file.read() for file in files]
