"""Pages: who may see one, how it is rendered, and what a browser may do with it.

    Page("GET", "/models", "admin", models)         # a row of the table in raycls/console/application.py
    return render(request, "models.html", models=found)

Templates escape all text. The Content-Security-Policy lets a browser run and load what this console sends, and nothing
else: no inline script, no inline style, no other host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from raycls.console.server import Server
from raycls.console.session import Session
from raycls.control_plane.body import LARGEST_DOCUMENT, pieces
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.state import Role

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LARGEST_FORM = 1 << 16  # bytes
MESSAGE = "raycls_message"  # the cookie of what the next page says once


def _words(text: str) -> Markup:
    """Return what the library says to people: a command stands between backticks, as on the command line."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


TEMPLATES = Environment(
    loader=PackageLoader("raycls.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["date"] = lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
TEMPLATES.filters["clock"] = lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")
TEMPLATES.filters["moment"] = lambda text: str(text).replace("T", " ")[:16]  # of an ISO 8601 time
TEMPLATES.filters["words"] = _words
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Page:
    """A method and a path, who may use it, and the function that answers. role: None for everybody. secret: whether a
    request that changes something must carry the secret of its session.

    The function finds the session in `request.state.session`, and the server in `request.app.state.server`.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    secret: bool = True

    @property
    def changes(self) -> bool:
        return self.method != "GET"


def session_of(request: Request) -> Session | None:
    found: Session | None = request.state.session
    return found


def server_of(request: Request) -> Server:
    found: Server = request.app.state.server
    return found


def root_of(request: Request) -> str:
    """Return the path below which this console is, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def part_of(request: Request, name: str) -> str:
    """Return a part of the path as it stands in a URL, whatever is in it."""
    return quote(request.path_params[name], safe="")


def page_of(request: Request) -> int:
    """Return the page of a long list that the query names, from 1; 1 for one that is no number."""
    text = request.query_params.get("page", "1")
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) else 1


def render(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """Return a page. The templates know the session, and what the former page left to say."""
    session = session_of(request)
    said = _said(request)
    text = TEMPLATES.get_template(template).render(
        root=root_of(request),
        path=request.url.path.removeprefix(root_of(request)),
        session=session,
        csrf=session.csrf if session else "",
        said=said,
        **context,
    )
    response = HTMLResponse(text, status, headers=HEADERS)
    if said:
        response.delete_cookie(MESSAGE, path=root_of(request) or "/")
    return response


async def fields_of(request: Request) -> dict[str, str]:
    """Return the fields of a page's form. Raises HTTPProblem 413 for a large one, and 400 for one that is no text."""
    if not hasattr(request.state, "fields"):
        body = b"".join([piece async for piece in pieces(request, LARGEST_FORM)])
        try:
            request.state.fields = dict(parse_qsl(body.decode(), keep_blank_values=True))
        except ValueError:
            raise HTTPProblem(400, "the form is not text") from None
    found: dict[str, str] = request.state.fields
    return found


async def json_of(request: Request) -> dict[str, Any]:
    """Return the JSON object that a page's script has sent. Raises HTTPProblem 413 and 400."""
    body = b"".join([piece async for piece in pieces(request, LARGEST_DOCUMENT)])
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise HTTPProblem(400, "send a JSON object")
    return found


def go(request: Request, path: str, say: str = "", *, bad: bool = False) -> Response:
    """Return a redirect to a path of this console, whose page says something once."""
    response = RedirectResponse(root_of(request) + path, 303, headers=HEADERS)
    if say:
        text = quote(json.dumps([say[:1000], bad]))
        response.set_cookie(
            MESSAGE, text, max_age=60, path=root_of(request) or "/", httponly=True, samesite="strict"
        )
    return response


def _said(request: Request) -> tuple[str, bool] | None:
    try:
        text, bad = json.loads(unquote(request.cookies.get(MESSAGE, "")))
        return str(text), bool(bad)
    except (ValueError, TypeError):
        return None
