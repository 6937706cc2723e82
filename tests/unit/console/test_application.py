"""The console without a server: who may see what, what a browser may do, and that all text is escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from raycls.console import sign_in
from raycls.console.application import PAGES, application
from raycls.console.page import Page
from raycls.console.session import Sessions
from raycls.serving.settings import ConsoleConfig
from tests.unit.console.fake_server import URL, Server, signed_in


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
    signed_in(client, letter)
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
    csrf = signed_in(client, "a")
    server.asked.clear()
    for headers in ({}, {"X-Csrf": "other"}, {"X-Csrf": csrf, "Origin": "http://evil.example"}):
        answer = client.request(page.method, _path(page), headers=headers)
        assert answer.status_code == 403
    assert server.asked == []


def test_what_is_not_there_leads_to_what_is(client: TestClient) -> None:
    signed_in(client, "a")
    answer = client.get("/datasets/pets/99")
    assert answer.status_code == 404
    assert "there is no such thing" in answer.text
    assert '<a href="/datasets">All datasets</a>' in answer.text


def test_another_host_is_refused(client: TestClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/models", "/models/pets", "/teach", "/live", "/live/hour", "/sign-in", "/nothing"),
        *("/runs", "/runs/r1", "/datasets", "/datasets/pets/2", "/models/pets/versions/7"),
        "/models/pets/comparison?challenger=7&champion=6",
    ],
)
def test_text_of_others_is_escaped_and_the_browser_runs_nothing_else(client: TestClient, path: str) -> None:
    signed_in(client, "a")
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
    signed_in(client, "a")
    answer = client.post("/sign-in", data={"token": "c" * 64})
    assert answer.status_code == 303, "from a page that knew no session"


def test_the_token_of_predictions_signs_in_where_the_server_has_one(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "PAUSE_S", 0.01)
    assert client.post("/sign-in", data={"token": "secret"}).status_code == 401, "/metrics is open"
    server.raycls_token = "secret"
    assert client.post("/sign-in", data={"token": "other"}).status_code == 401
    assert client.post("/sign-in", data={"token": "secret"}).status_code == 303
    assert "RAYCLS_TOKEN" in client.get("/").text
    assert client.get("/models").status_code == 403


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
    signed_in(client, "a")
    server.revoked = True
    answer = client.get("/models")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")
    server.revoked = False
    assert client.get("/models").status_code == 303, "the cookie is gone"


def test_signing_out_ends_the_session(client: TestClient) -> None:
    csrf = signed_in(client, "a")
    assert client.post("/sign-out", data={"csrf": csrf}).status_code == 303
    assert client.get("/models").status_code == 303


def test_styles_and_scripts_are_sent_as_what_they_are(client: TestClient) -> None:
    for name, kind in (("console.css", "text/css"), ("try.js", "javascript"), ("icon.svg", "image/svg+xml")):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
    for path in ("/static/%2e%2e/application.py", "/static/..%2fapplication.py"):
        assert client.get(path).status_code == 404


def test_a_body_that_is_large_or_wrong_is_refused(client: TestClient, server: Server) -> None:
    assert client.post("/sign-in", data={"token": "a" * 200_000}).status_code == 413
    csrf = signed_in(client, "a")
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
