"""The body of a request to the control plane, read within limits.

wanted = await document_of(request, Start)      # a pydantic model; raises HTTPProblem 400, 413
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from raycls.config import complaints
from raycls.serving.replica.answer import HTTPProblem

LARGEST_DOCUMENT = 64 * 1024  # bytes of a JSON body

Document = TypeVar("Document", bound=BaseModel)


async def document_of(request: Request, model: type[Document]) -> Document:
    """Return the JSON body as `model`. An empty body is an empty object.

    Raises HTTPProblem: 400 for other JSON, 413 for more than 64 KiB.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_DOCUMENT:
            raise HTTPProblem(413, f"the body is larger than {LARGEST_DOCUMENT:,} bytes")
    try:
        return model.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        raise HTTPProblem(400, "; ".join(complaints(error))[:500]) from None
