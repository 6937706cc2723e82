"""Who may ask: the token of a server, and when one is needed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from raycls.cli import run
from raycls.errors import UsageError
from raycls.serving import auth
from raycls.serving.control.configuration import ServeConfiguration

CONFIG = Path(__file__).parents[3] / "serve_config.yaml"
SECRET = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    ("host", "needed"),
    [
        ("127.0.0.1", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("pc", True),
    ],
)
def test_who_can_be_reached_needs_a_token(host: str, needed: bool) -> None:
    assert auth.needed(host) is needed


def test_a_host_that_others_reach_needs_the_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    document = ServeConfiguration.read(CONFIG).pinned(host="0.0.0.0")
    with pytest.raises(UsageError, match="RAYCLS_TOKEN"):
        document.guarded()
    monkeypatch.setenv("RAYCLS_TOKEN", SECRET)
    guarded = document.guarded()
    assert guarded.arguments["token_sha256"] == auth.digest(SECRET)
    assert SECRET not in str(guarded.content)


def test_loopback_asks_for_a_token_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    document = ServeConfiguration.read(CONFIG)
    assert not document.guarded().asks_for_token
    monkeypatch.setenv("RAYCLS_TOKEN", SECRET)
    assert document.guarded().arguments["token_sha256"] == auth.digest(SECRET)
    assert not document.asks_for_token


def test_a_token_that_can_be_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLS_TOKEN", "secret")
    with pytest.raises(UsageError, match="6 characters, fewer than 16"):
        auth.headers("http://127.0.0.1:8000")


@pytest.mark.parametrize(
    "token", ["ein-Wört-das-lang-genug-ist", "sixteen or more €", "two words, so many letters"]
)
def test_a_token_that_no_header_carries(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("RAYCLS_TOKEN", token)
    with pytest.raises(UsageError, match="ASCII"):
        auth.headers("http://127.0.0.1:8000")


def test_a_newline_behind_the_token_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLS_TOKEN", f"{SECRET}\n")
    assert auth.headers("http://127.0.0.1:8000") == {"Authorization": f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    "url", ["http://raycls.example:8000", "http://192.0.2.1:8000", "http://[2001:db8::1]"]
)
def test_a_token_does_not_travel_unencrypted_to_another_machine(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    assert auth.headers(url) == {}, "there is none to protect"
    monkeypatch.setenv("RAYCLS_TOKEN", SECRET)
    with pytest.raises(UsageError, match="would travel unencrypted"):
        auth.headers(url)
    assert auth.headers(url.replace("http:", "https:"))
    monkeypatch.setenv("RAYCLS_UNENCRYPTED", "1")
    assert auth.headers(url)


def test_every_address_of_this_machine_may_have_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLS_TOKEN", SECRET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        own = probe.getsockname()[0]
    for host in ("localhost", "127.0.0.1", "[::1]", own):
        assert auth.headers(f"http://{host}:8000")


def test_up_on_every_interface_without_a_token_starts_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["up", "--host", "0.0.0.0", "--config", str(CONFIG)]) == 2
    assert "--no-auth" in capsys.readouterr().err
    assert not (home / "cluster.json").exists()
