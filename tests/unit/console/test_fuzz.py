"""Requests that nobody would write: each gets a page or a refusal, and what is refused reaches no server."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

from starlette.testclient import TestClient

from raycls.console import sign_in
from raycls.console.application import PAGES, application
from raycls.console.page import MESSAGE, Page
from raycls.console.session import Sessions
from raycls.serving.settings import ConsoleConfig
from tests.unit.console.fake_server import EVIL, Server

TRIES = int(os.environ.get("RAYCLS_FUZZ_CASES", "3000"))
PARTS = (
    "pets",
    "7",
    "2",
    "e1",
    "..",
    "%2e%2e",
    "%00",
    "%ff",
    "<script>",
    "%0d%0ax:y",
    "\u202e",
    "a" * 3000,
)
QUERIES = (
    "",
    "?page=1",
    "?page=-1",
    "?page=%00",
    "?next=//evil",
    "?at=0",
    "?at=x&at=1",
    "?challenger=7&champion=6",
)
KINDS = (
    None,
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "text/html",
    "\u00ff",
)
BODIES = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"dataset": [[[[]]]], "sha256": 5}',
    b"[" * 20_000,
    b"\xff\xfe",
    b"csrf=x&version=../../etc&share=nan",
    b"share=1e999&mode=shadow",
    b"--b\r\nContent-Disposition: form-data; name=file; filename=../../x\r\n\r\nGIF89a\r\n--b--\r\n",
    b"a=" + b"b" * 70_000,
    EVIL.encode(),
)


class _Requests:
    """Draws them. Some carry a session of a role, some its secret."""

    def __init__(self, sessions: Sessions):
        self.chance, self._sessions = random.Random(25), sessions
        self._people = {
            letter: sessions.start(letter * 64, name, (role,))
            for letter, name, role in (
                ("a", "ada", "admin"),
                ("c", "carl", "contribute"),
                ("p", "pia", "predict"),
            )
        }

    def draw(self) -> tuple[str, str, dict[str, str], bytes, bool]:
        """Return method, path, headers, body, and whether it may change something."""
        chance = self.chance
        page: Page = chance.choice(PAGES)
        path = "/".join(
            chance.choice(PARTS) if part.startswith("{") else part for part in page.path.split("/")
        )
        if chance.random() < 0.1:
            path += chance.choice(("/", "/..", "//", f"/{chance.choice(PARTS)}"))
        method = (
            page.method if chance.random() < 0.8 else chance.choice(("GET", "HEAD", "POST", "PUT", "DELETE"))
        )
        headers = {"Host": chance.choice(("127.0.0.1:8080", "localhost", "evil.example", "", "[::1]"))}
        if kind := chance.choice(KINDS):
            headers["Content-Type"] = kind
        if chance.random() < 0.2:
            headers["Origin"] = chance.choice(("http://evil.example", "null", "http://127.0.0.1:8080", ""))
        if chance.random() < 0.3:
            headers["Accept"] = "application/json"
        session, secret = chance.choice((*self._people.values(), None)), chance.random() < 0.5
        cookies = [f"{MESSAGE}={chance.choice(('x', '%5B%22a%22%2C0%5D', '%7B', '[' * 500))}"]
        if session:
            cookies.append(f"{self._sessions.cookie}={self._sessions.sealed(session)}")
            if secret:
                headers["X-Csrf"] = session.csrf
        headers["Cookie"] = "; ".join(cookies)
        return method, path + chance.choice(QUERIES), headers, chance.choice(BODIES), bool(session and secret)


def test_whatever_is_sent_gets_a_page_or_a_refusal(home: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sign_in, "PAUSE_S", 0.0)
    server = Server()
    app = application(ConsoleConfig(server=server.url), host="127.0.0.1")
    app.state.server = server
    requests, seen = _Requests(app.state.sessions), Counter[int]()
    base = "http://127.0.0.1:8080"
    with TestClient(app, base_url=base, follow_redirects=False) as client:
        for _ in range(TRIES):
            method, path, headers, body, may_change = requests.draw()
            server.asked.clear()
            encoded = {name: value.encode("latin-1", "replace") for name, value in headers.items()}
            answer = client.request(method, base + path, headers=encoded, content=body)
            client.cookies.clear()
            assert answer.status_code < 500, (method, path, headers, body[:100], answer.text[-500:])
            changed = [each for each in server.asked if each[0] not in ("GET", "HEAD")]
            assert not changed or (may_change and answer.status_code < 400), (method, path, headers, changed)
            assert "html" not in answer.headers.get("content-type", "") or "<img src=x" not in answer.text
            seen[answer.status_code] += 1
    assert {200, 303, 403, 404, 405, 421} <= set(seen)
