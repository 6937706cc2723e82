"""The console without a server: who may see what, what a browser may do, and that all text is escaped."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from raycls.console import sign_in
from raycls.console.application import PAGES, application
from raycls.console.page import Page
from raycls.console.server import ServerError
from raycls.console.session import Session, Sessions
from raycls.serving.settings import ConsoleConfig

URL = "http://127.0.0.1:8080"
EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'
ROLES = {"a" * 64: ("ada", ["admin"]), "c" * 64: ("carl", ["contribute"]), "p" * 64: ("pia", ["predict"])}
VERSION = {"name": EVIL, "version": "7", "aliases": ["champion", EVIL], "metrics": {"val_accuracy": 0.9}}
EVENT = {
    "at": 0.0,
    "kind": "promotion",
    "former": "6",
    "version": "7",
    "by": EVIL,
    "reason": EVIL,
    "done": True,
}
RECORD = {"sha256": "0" * 64, "label": EVIL, "sender": EVIL, "state": "waiting"}
RETRAINING = {
    "id": "1f" * 6,
    "wanted": {"model": EVIL},
    "state": "running",
    "step": "train",
    "error": EVIL,
    "done": {"compare": {"verdict": "better", "reason": EVIL}},
}
ARM = {"requests": 5, "failures": {"late": 1}, "p50_ms": None, "p95_ms": 2.5, "confidence": 0.5}
EXPERIMENT = {
    **{
        "id": "e1",
        "challenger": EVIL,
        "champion": "pets/6",
        "mode": "shadow",
        "share": 0.2,
        "started": "now",
    },
    **{"by": EVIL, "state": "running", "ended": "", "reason": "", "ended_by": ""},
    **{"arms": {"champion": ARM, "challenger": ARM}, "compared": 4, "agreement": 0.75, "kept": 0},
    "accuracy": {"reviewed": {"champion": 0, "challenger": 0}, "verdict": {"decision": "not_yet"}},
}
FINDING = {"feature": EVIL, "effect": 0.5, "p": 0.001, "alarm": True}
RUN = {
    **{"id": "r1", "name": EVIL, "kind": "study", "status": "RUNNING", "started": 0.0, "ended": None},
    **{"study": "", "trial": "", "retraining": "", "dataset_version": "1", "metrics": {"val_accuracy": 0.5}},
    **{
        "params": {"training.epochs": EVIL},
        "history": [{"epoch": 1, "train_loss": 2.0, "val_loss": float("nan")}],
    },
}
TRIAL = {"number": 0, "state": "done", "score": 0.5, "epochs": 2, "latency_ms": None, "told": EVIL}
DATASET = {
    "name": "pets",
    "version": 1,
    "counts": {"train": 9},
    "image_size": 32,
    "left_out": 1,
    "source": EVIL,
}
INFO = {
    **DATASET,
    **{"version": 2, "classes": [EVIL, "dog"], "class_counts": {"train": [4, 5]}, "resize": "crop"},
    **{"fingerprint": "0" * 64, "left_out_files": [{"source": EVIL, "kind": "unreadable", "reason": EVIL}]},
}
ANSWERS: dict[str, Any] = {
    "GET /runs?page=1": {"dataset": EVIL, "runs": [RUN], "total": 120},
    "GET /runs/r1": RUN,
    "GET /datasets": {"datasets": [{**DATASET, "classes": 2}]},
    "GET /datasets/pets/2": INFO,
    "GET /health": {"model": {"name": EVIL, "version": "7"}},
    "GET /models": {"models": [VERSION, {**VERSION, "version": "6", "aliases": []}]},
    "GET /uploads?state=waiting": {"dataset": EVIL, "uploads": [RECORD], "total": 1, "classes": [EVIL]},
    "GET /retrain": {"retrainings": [RETRAINING]},
    "GET /experiments": {"experiments": [EXPERIMENT, {**EXPERIMENT, "state": "ended", "id": "e0"}]},
    "GET /experiments/e1": EXPERIMENT,
    "GET /drift": {
        "windows": [{"images": 9, "began": EVIL, "ended": "", "version": EVIL, "findings": [FINDING]}]
    },
}


class Server:
    """Answers as a server of raycls would, and remembers what it was asked."""

    url = "http://127.0.0.1:8000"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.revoked = False
        self.holds: threading.Event | None = None  # a promotion waits for it, and is refused

    async def call(self, session: Session | None, method: str, path: str, **options: Any) -> Any:
        self.asked.append((method, path, options.get("json")))
        if self.revoked and session:
            raise ServerError(401, "send a token of the server")
        if path == "/whoami":
            name, roles = ROLES.get(options["headers"]["Authorization"].removeprefix("Bearer "), ("", []))
            if not name:
                raise ServerError(401, "send a token of the server")
            return {"name": name, "roles": roles}
        if path.startswith("/studies/"):
            return {"name": EVIL, "trials": [TRIAL], "winner": 0}
        if "/history" in path:
            return {"history": [EVENT]}
        if self.holds and path.endswith("/promote"):
            await asyncio.to_thread(self.holds.wait)
            raise ServerError(409, "it is not better")
        if method != "GET":
            return {"state": "waiting", "uploads": [RECORD]}
        return ANSWERS[f"{method} {path}"]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(home: Path, server: Server) -> Iterator[TestClient]:
    app = application(ConsoleConfig(server=server.url), host="127.0.0.1")
    app.state.server = server
    with TestClient(app, base_url=URL, follow_redirects=False) as client:
        yield client


def _signed_in(client: TestClient, letter: str) -> str:
    """Sign in, and return the session's secret."""
    answer = client.post("/sign-in", data={"token": letter * 64, "next": "/models"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/models")
    return re.search(r'data-csrf="([^"]+)"', client.get("/").text)[1]


def _path(page: Page) -> str:
    return (
        page.path.replace("{name}", "pets")
        .replace("{sha256}", "0" * 64)
        .replace("{id}", "1f" * 6)
        .replace("{version}", "1")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.method} {page.path}")
def test_who_is_not_signed_in_is_sent_to_sign_in(client: TestClient, server: Server, page: Page) -> None:
    if page.role is None:
        return
    answer = client.request(page.method, _path(page))
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in?next=")
    by_script = client.request(page.method, _path(page), headers={"Accept": "application/json"})
    assert by_script.status_code == 401
    assert server.asked == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.method} {page.path}")
@pytest.mark.parametrize(("letter", "roles"), [("p", {"predict"}), ("c", {"contribute"})])
def test_a_role_opens_its_own_pages_alone(
    client: TestClient, server: Server, page: Page, letter: str, roles: set[str]
) -> None:
    _signed_in(client, letter)
    server.asked.clear()
    if page.role and page.role not in roles:
        assert client.request(page.method, _path(page)).status_code == 403
        assert server.asked == []
    elif not page.changes:
        assert client.request(page.method, _path(page)).status_code == 200


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.changes and page.secret], ids=lambda page: page.path
)
def test_what_changes_something_needs_the_sessions_secret_and_a_page_of_this_site(
    client: TestClient, server: Server, page: Page
) -> None:
    csrf = _signed_in(client, "a")
    server.asked.clear()
    for headers in ({}, {"X-Csrf": "other"}, {"X-Csrf": csrf, "Origin": "http://evil.example"}):
        answer = client.request(page.method, _path(page), headers=headers)
        assert answer.status_code == 403
    assert server.asked == []


def test_another_host_is_refused(client: TestClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/models", "/models/pets", "/teach", "/live", "/sign-in", "/nothing"),
        *("/runs", "/runs/r1", "/datasets", "/datasets/pets/2"),
    ],
)
def test_text_of_others_is_escaped_and_the_browser_runs_nothing_else(client: TestClient, path: str) -> None:
    _signed_in(client, "a")
    answer = client.get(path)
    assert answer.status_code == (404 if path == "/nothing" else 200)
    assert "<img src=x" not in answer.text
    assert "<script>" not in answer.text
    assert not re.search(r'\s(style|on\w+)="', answer.text), "the policy lets no inline style or script run"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("server_url", [URL, "http://127.0.0.1:8000"])
def test_a_cookie_of_another_console_or_server_or_a_changed_one_signs_nobody_in(
    client: TestClient, server: Server, server_url: str
) -> None:
    other = Sessions("another key", server_url)
    assert (other.cookie == Sessions("a key", server.url).cookie) == (server_url == server.url)
    for text in (other.sealed(other.start("a" * 64, "ada", ("admin",))), "x", ""):
        client.cookies.set(Sessions("", server.url).cookie, text)
        assert client.get("/models").status_code == 303


def test_a_wrong_token_is_said_and_a_right_one_still_signs_in(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "PAUSE_S", 0.01)
    for _ in range(40):
        answer = client.post("/sign-in", data={"token": "x" * 64})
        assert answer.status_code == 401
    assert "does not know this token" in answer.text
    assert not client.cookies
    _signed_in(client, "a")
    answer = client.post("/sign-in", data={"token": "c" * 64})
    assert answer.status_code == 303, "from a page that knew no session"


@pytest.mark.parametrize(
    "following", ["//evil.example", "http://evil.example", "/\\evil.example", "evil", "/\r\nx: y"]
)
def test_signing_in_leads_to_a_page_of_this_console(client: TestClient, following: str) -> None:
    answer = client.post("/sign-in", data={"token": "a" * 64, "next": following})
    assert answer.headers["location"] == "/"


def test_a_token_does_not_travel_unencrypted_from_another_machine(home: Path, server: Server) -> None:
    app = application(ConsoleConfig(server=server.url, allowed_hosts=("pets.example",)), host="0.0.0.0")
    app.state.server = server
    with TestClient(app, base_url="http://pets.example", follow_redirects=False) as client:
        assert client.post("/sign-in", data={"token": "a" * 64}).status_code == 403
        behind_tls = client.post("/sign-in", data={"token": "a" * 64}, headers={"X-Forwarded-Proto": "https"})
        assert behind_tls.status_code == 303
        assert "secure" in behind_tls.headers["set-cookie"].lower()
    assert [path for _, path, _ in server.asked] == ["/whoami"]


def test_a_revoked_token_ends_the_session(client: TestClient, server: Server) -> None:
    _signed_in(client, "a")
    server.revoked = True
    answer = client.get("/models")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")
    server.revoked = False
    assert client.get("/models").status_code == 303, "the cookie is gone"


def test_signing_out_ends_the_session(client: TestClient) -> None:
    csrf = _signed_in(client, "a")
    assert client.post("/sign-out", data={"csrf": csrf}).status_code == 303
    assert client.get("/models").status_code == 303


def test_a_promotion_is_asked_for_once_at_a_time_and_its_refusal_is_shown(
    client: TestClient, server: Server
) -> None:
    csrf = _signed_in(client, "a")
    release = threading.Event()
    server.holds = release
    for _ in range(2):
        client.post("/models/pets/promote", data={"csrf": csrf, "version": "6", "force": ""})
    page = client.get("/models/pets").text
    assert "The server promotes version 6" in page
    assert "wait for that" in page
    release.set()
    deadline = time.monotonic() + 10
    while "it is not better" not in (page := client.get("/models/pets").text):
        assert time.monotonic() < deadline
    assert "The server promotes" not in page
    assert server.asked.count(("POST", "/models/pets/promote", {"version": "6"})) == 1


def test_a_review_and_a_retraining_reach_the_server(client: TestClient, server: Server) -> None:
    csrf = _signed_in(client, "a")
    wanted = {"dataset": "pets", "sha256": ["0" * 64], "decision": "accept"}
    answer = client.post("/review", content=json.dumps(wanted), headers={"X-Csrf": csrf})
    assert (answer.status_code, answer.json()["uploads"]) == (200, [RECORD])
    assert ("POST", "/uploads/review", wanted) in server.asked
    client.post("/retrain", data={"csrf": csrf, "model": "pets", "then": "nothing", "preset": "smoke"})
    assert ("POST", "/retrain", {"model": "pets", "then": "nothing", "preset": "smoke"}) in server.asked


def test_styles_and_scripts_are_sent_as_what_they_are(client: TestClient) -> None:
    for name, kind in (("console.css", "text/css"), ("try.js", "javascript"), ("icon.svg", "image/svg+xml")):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
    for path in ("/static/%2e%2e/application.py", "/static/..%2fapplication.py"):
        assert client.get(path).status_code == 404


def test_a_body_that_is_large_or_wrong_is_refused(client: TestClient, server: Server) -> None:
    assert client.post("/sign-in", data={"token": "a" * 200_000}).status_code == 413
    csrf = _signed_in(client, "a")
    server.asked.clear()
    for body, status in ((b"[]", 400), (b"{", 400), (b"\xff", 400), (b" " * 2_000_000, 413)):
        answer = client.post("/review", content=body, headers={"X-Csrf": csrf, "Accept": "application/json"})
        assert (answer.status_code, "detail" in answer.json()) == (status, True)
    wrong = client.post(
        "/retrain",
        content=b"\xff",
        headers={"X-Csrf": csrf, "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert wrong.status_code == 400
    assert client.post("/upload", content=b"x", headers={"X-Csrf": csrf}).status_code == 415
    assert server.asked == []
