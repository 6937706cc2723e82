"""All pages of the console, and what holds for each of them.

    application(ConsoleConfig(server="http://127.0.0.1:8000"), host="127.0.0.1")     # any ASGI server runs it
    PAGES                                                                             # the table

Before a page answers, the client's host is checked; where it changes something, also the page that sent the request and
the session's secret (CSRF). Who may not see a page is sent to sign in.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import quote, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from raycls.console import comparison, datasets, live, models, runs, sign_in, teach, try_picture
from raycls.console.page import HEADERS, Page, fields_of, go, render, root_of, session_of
from raycls.console.server import Server, ServerError
from raycls.console.session import Sessions
from raycls.serving import state
from raycls.serving.access import Access
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.settings import ConsoleConfig
from raycls.serving.state import Follower, Role

PAGES: list[Page] = [
    *sign_in.PAGES,
    *try_picture.PAGES,
    *models.PAGES,
    *comparison.PAGES,
    *runs.PAGES,
    *datasets.PAGES,
    *teach.PAGES,
    *live.PAGES,
]
CSRF = "x-csrf"  # the header of a script; a form has a field of the name csrf
SIGNED_OUT = "you are signed out, and nothing was done: sign in, and do it again"
STATIC = Path(__file__).parent / "static"
METHODS = ["GET", "HEAD", "POST"]
# Of the requests that this process answers at a time (max_ongoing_requests), so that an admin always finds a place:
# those of each other role, and pages that follow a training.
MOST_AT_ONCE, MOST_STREAMS = 16, 8

logger = logging.getLogger("ray.serve")


def application(config: ConsoleConfig, *, host: str | None) -> Starlette:
    """Return the ASGI application. host: the address that it listens on; None: it is not known.

    The configuration must name the server. Raises DataError where this machine's state, with the key of the sessions,
    cannot be read or written.
    """
    assert config.server
    access = Access(Follower(), host=host, allowed_hosts=config.allowed_hosts)
    # A secret that is kept, so that a console that starts again knows its sessions.
    state.ensure_signing_key()
    sessions = Sessions(state.load().signing_key, config.server)
    places: dict[Role | None, asyncio.Semaphore] = {
        role: asyncio.Semaphore(MOST_AT_ONCE) for role in (None, "contribute")
    }
    by_path: dict[str, dict[str, Page]] = {}
    for page in PAGES:
        by_path.setdefault(page.path, {})[page.method] = page
    app = Starlette(
        routes=[
            *(
                Route(path, _guarded(pages, access, sessions, places), methods=METHODS)
                for path, pages in by_path.items()
            ),
            Mount("/static", _Static(directory=STATIC)),
        ],
        exception_handlers={HTTPException: _unknown},
    )
    app.state.config, app.state.server, app.state.sessions = config, Server(config.server), sessions
    app.state.streams = asyncio.Semaphore(MOST_STREAMS)
    # What the server was asked to do and does not answer yet, and how the last of it ended: by the name of the model.
    app.state.running, app.state.ended, app.state.tasks = {}, {}, set()
    app.state.comparing = {}
    return app


class _Static(StaticFiles):
    """Styles and scripts, which a browser may keep for an hour."""

    def file_response(self, *arguments: object, **named: object) -> Response:
        response = super().file_response(*arguments, **named)  # type: ignore[arg-type]
        response.headers.update({**HEADERS, "Cache-Control": "max-age=3600"})
        return response


def _guarded(
    pages: dict[str, Page],
    access: Access,
    sessions: Sessions,
    places: dict[Role | None, asyncio.Semaphore],
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a path. pages: by method. places: for the requests of some roles."""

    async def endpoint(request: Request) -> Response:
        request.state.session = sessions.opened(request.cookies.get(sessions.cookie, ""))
        try:
            access.check_host(request.headers)
            page = pages.get("GET" if request.method == "HEAD" else request.method)
            if page is None and request.method in ("GET", "HEAD"):
                raise HTTPProblem(404, "there is no such page")
            if page is None:
                raise HTTPProblem(405, f"this page takes {', '.join(sorted(pages))}")
            if page.changes:
                access.check_origin(request.headers)
            session = session_of(request)
            if page.role and not (session and session.may(page.role)):
                return _signed_out(request, page)
            return await _answered(request, page, places.get(page.role))
        except HTTPProblem as problem:
            return _failed(request, problem.status, problem.detail)
        except ServerError as error:
            if error.status == 401 and session_of(request):  # the token was revoked
                response = _signed_out(request, None)
                response.delete_cookie(sessions.cookie, path=root_of(request) or "/")
                return response
            return _failed(request, error.status, error.detail)
        except Exception:
            logger.exception("the console failed on a request")
            return _failed(request, 500, "the console failed on this request; its log says why")

    return endpoint


async def _answered(request: Request, page: Page, places: asyncio.Semaphore | None) -> Response:
    """Answer where there is a place. Raises HTTPProblem 429 where there is none."""
    session = session_of(request)
    if places and places.locked():
        raise HTTPProblem(429, "others send too much at this moment: try again")
    async with places or nullcontext():
        if page.changes and page.secret and session:
            await _check_secret(request, session.csrf)
        return await page.handler(request)


async def _check_secret(request: Request, csrf: str) -> None:
    given = request.headers.get(CSRF, "")
    if not given and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        given = (await fields_of(request)).get("csrf", "")
    if not hmac.compare_digest(given.encode(), csrf.encode()):
        raise HTTPProblem(403, "this page is of another session: load it again")


def _signed_out(request: Request, page: Page | None) -> Response:
    """Send a person to the sign-in page, and tell a script."""
    if _by_script(request):
        return JSONResponse({"detail": SIGNED_OUT}, 401, headers=HEADERS)
    session = session_of(request)
    if session and page and page.role and not session.may(page.role):
        return _failed(
            request, 403, f"the token {session.name} may not do this: it needs the role {page.role}"
        )
    if request.method == "GET":
        back = request.url.path.removeprefix(root_of(request))
        return RedirectResponse(f"{root_of(request)}/sign-in?next={quote(back)}", 303, headers=HEADERS)
    # The page with the form, whose origin was checked.
    back = urlsplit(request.headers.get("referer", "")).path.removeprefix(root_of(request)) or "/"
    return go(request, f"/sign-in?next={quote(back)}", SIGNED_OUT, bad=True)


def _failed(request: Request, status: int, detail: str) -> Response:
    if _by_script(request):
        return JSONResponse({"detail": detail}, status, headers=HEADERS)
    return render(request, "failed.html", status, code=status, detail=detail)


def _by_script(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # Starlette raises it where no route fits
    request.state.session = None
    detail = "there is no such page" if error.status_code == 404 else error.detail
    return _failed(request, error.status_code, detail)
