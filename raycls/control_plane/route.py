"""One route of the control plane, as the modules of this folder list them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from raycls.serving.state import Role

# Of an answer that is a picture: a browser shows it, and runs nothing of it.
PICTURE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class ControlRoute:
    """A method and a path, the role that it needs (None: any token), and the function that answers.

    The function finds the name of the client's token in `request.state.by`. What it raises becomes a problem document.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    summary: str
    # For the OpenAPI document: the JSON body; and by name what a query, a header or a field of a form means.
    body: type[BaseModel] | None = None
    queries: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether a request changes something."""
        return self.method != "GET"
