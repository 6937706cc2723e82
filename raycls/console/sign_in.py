"""Signing in with a token of the server, and out."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from raycls import local_http
from raycls.console.page import Page, fields_of, go, render, root_of, server_of
from raycls.console.server import Server, ServerError
from raycls.console.session import LASTS_S
from raycls.serving import auth
from raycls.serving.replica.answer import HTTPProblem

LONGEST_TOKEN = 1000
PAUSE_S = 1.0  # before a wrong token is answered


async def show(request: Request) -> Response:
    _check_way(request)
    return render(request, "sign_in.html", next=_next(request.query_params.get("next", "")), problem="")


async def sign_in(request: Request) -> Response:
    """Ask the server whose token this is, and begin a session."""
    _check_way(request)
    form = await fields_of(request)
    token, following = form.get("token", "").strip(), _next(form.get("next", ""))
    is_one = 0 < len(token) <= LONGEST_TOKEN and token.isascii() and token.isprintable()
    who = await _whose(server_of(request), token) if is_one else None
    if who is None:
        problem = "the server does not know this token" if is_one else "this is no token"
        # A wrong token keeps its place (MOST_AT_ONCE of raycls/console/application.py), so that guesses are few.
        await asyncio.sleep(PAUSE_S)
        return render(request, "sign_in.html", 401, next=following, problem=problem)
    sessions = request.app.state.sessions
    session = sessions.start(token, who["name"], tuple(who["roles"]))
    response = go(request, following)
    response.set_cookie(
        sessions.cookie,
        sessions.sealed(session),
        max_age=LASTS_S,
        path=root_of(request) or "/",
        httponly=True,
        samesite="strict",
        secure=_is_encrypted(request),
    )
    return response


async def _whose(server: Server, token: str) -> dict[str, Any] | None:
    """Return the name and the roles of a token; None for one that the server does not know."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        found: dict[str, Any] = await server.call(None, "GET", "/whoami", headers=headers)
    except ServerError as error:
        if error.status not in (401, 403):
            raise
    else:
        return found
    # RAYCLS_TOKEN is known to the replicas alone. Where /metrics is open, it says nothing of a token.
    try:
        await server.answer(None, "GET", "/metrics")
    except ServerError as error:
        if error.status != 401:
            return None
    else:
        return None
    try:
        await server.answer(None, "GET", "/metrics", headers=headers)
    except ServerError:
        return None
    return {"name": auth.TOKEN, "roles": ["predict"]}


async def sign_out(request: Request) -> Response:
    response = go(request, "/sign-in", "signed out")
    response.delete_cookie(request.app.state.sessions.cookie, path=root_of(request) or "/")
    return response


def _next(path: str) -> str:
    """Return the page to go to: one of this console, whatever was asked for."""
    try:
        parts = urlsplit(path)
    except ValueError:
        return "/"
    inside = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc
    return parts.path if inside and path.isprintable() else "/"


def _is_encrypted(request: Request) -> bool:
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))


def _check_way(request: Request) -> None:
    """Raise HTTPProblem where the token would travel from another machine without TLS."""
    if not _is_encrypted(request) and not local_http.is_loopback(request.url.hostname or ""):
        raise HTTPProblem(
            403, "the token would travel unencrypted: sign in over https, or on the server's machine"
        )


PAGES = [
    Page("GET", "/sign-in", None, show),
    Page("POST", "/sign-in", None, sign_in, secret=False),
    Page("POST", "/sign-out", None, sign_out),
]
