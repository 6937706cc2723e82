"""Answers of a replica: JSON, and RFC 9457 problem documents.

    return json_response({"class_index": 3, …})
    raise HTTPProblem(413, "the body is larger than 10,485,760 bytes")

Knows statuses and words; nothing of requests or images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from raycls.errors import ImageError, ImageTooLargeError, NoMemoryForImageError, NotAnImageError
from raycls.ray_patches.haproxy_rules import FULL, MAX_PENDING, RETRY_AFTER_S

REQUEST_ID = (
    "x-request-id"  # the header of a client's name for its request; where it gives none, HAProxy makes one
)


class HTTPProblem(Exception):
    """A request that gets an error answer: its status, one sentence for people, and extra headers."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers

    def response(self, asked: Mapping[str, str] | None = None, *, said_as: str = "detail") -> Response:
        """Return the answer.

        asked: the headers of the request, whose id the document repeats. said_as: another member that holds the detail
        too, where clients look for it there.
        """
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            said_as: self.detail,
        }
        if asked and REQUEST_ID in asked:
            document["request_id"] = asked[REQUEST_ID]
        return Response(
            json.dumps(document),
            self.status,
            headers=dict(self.headers or {}),
            media_type="application/problem+json",
        )


def json_response(document: Any) -> Response:
    return Response(json.dumps(document), media_type="application/json")


def image_problem(error: ImageError, prefix: str = "") -> HTTPProblem:
    """Return 415 for bytes that are no image, 413 for too many pixels, 503 without memory, 400 for a damaged image."""
    status = {NotAnImageError: 415, ImageTooLargeError: 413, NoMemoryForImageError: 503}.get(type(error), 400)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return HTTPProblem(status, f"{prefix}{error}", headers)


def busy(reason: str) -> HTTPProblem:
    """Return 429 for a client that may try again in a moment."""
    return HTTPProblem(429, f"{reason}: try again in a moment", {"Retry-After": str(RETRY_AFTER_S)})


def failed() -> HTTPProblem:
    """Return 500 for a request on which the server itself failed."""
    return HTTPProblem(500, "the server failed on this request; its log says why")


def full(max_pending: int) -> HTTPProblem:
    """Return 429 from a replica that holds `max_pending` requests. HAProxy reads the limit from the header."""
    headers = {"Retry-After": str(RETRY_AFTER_S), MAX_PENDING: str(max_pending)}
    return HTTPProblem(429, str(FULL["detail"]), headers)
