"""Named tokens: made, listed, revoked, and kept as digests."""

from __future__ import annotations

import json
import re
import stat
import threading
from pathlib import Path

import pytest

from raycls.cli import run
from raycls.errors import ConfigError, DataError, UsageError
from raycls.serving import auth, state, tokens


def test_the_file_holds_digests_and_only_its_owner_reads_it(home: Path) -> None:
    secret = tokens.add("client", ["predict"])
    path = Path(state.place().full(state.FILE))
    assert path.is_relative_to(home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in path.read_text()
    assert auth.digest(secret) in path.read_text()


def test_a_name_is_used_once_and_what_is_wrong_is_said(home: Path) -> None:
    tokens.add("client", ["predict"])
    with pytest.raises(UsageError, match="a token called client already"):
        tokens.add("client", ["admin"])
    for name in ("", "a b", "../x", "-x", "x" * 65):
        with pytest.raises(ConfigError, match="name"):
            tokens.add(name, ["predict"])
    with pytest.raises(ConfigError, match="roles"):
        tokens.add("other", ["root"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="roles"):
        tokens.add("other", [])
    with pytest.raises(UsageError, match="no token called 'clint'; the tokens are: client"):
        tokens.revoke("clint")
    tokens.revoke("client")
    assert state.load().tokens == ()


def test_the_admin_token_is_made_once_and_again_where_the_server_forgot_it(home: Path) -> None:
    path = tokens.ensure_admin()
    secret = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tokens.ensure_admin().read_text() == secret
    tokens.revoke("admin")
    again = tokens.ensure_admin().read_text()
    assert again != secret
    assert [token.sha256 for token in state.load().tokens] == [auth.digest(again.strip())]


def test_changes_of_several_processes_are_all_kept(home: Path) -> None:
    threads = [threading.Thread(target=tokens.add, args=(f"client-{i}", ["predict"])) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {token.name for token in state.load().tokens} == {f"client-{i}" for i in range(8)}


def test_the_state_follows_the_storage_path(home: Path, storage: Path) -> None:
    tokens.add("client", ["predict"])
    assert Path(state.place().full(state.FILE)).is_relative_to(storage)


def test_a_damaged_file_is_one_line(home: Path) -> None:
    path = Path(state.place().full(state.FILE))
    path.parent.mkdir(parents=True)
    path.write_text('{"tokens": 3}')
    with pytest.raises(DataError, match="is damaged"):
        state.load()


def test_the_signing_key_is_made_once(home: Path) -> None:
    state.ensure_signing_key()
    key = state.load().signing_key
    state.ensure_signing_key()
    assert state.load().signing_key == key
    assert re.fullmatch("[0-9a-f]{64}", key)


def test_the_commands(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokens"]) == 0
    assert "no tokens yet" in capsys.readouterr().out
    assert run(["tokens", "add", "ci", "--role", "contribute", "--role", "predict"]) == 0
    secret = capsys.readouterr().out.strip()
    assert run(["tokens", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["roles"]) == ("ci", ["contribute", "predict"])
    assert "sha256" not in listed
    assert [token.sha256 for token in state.load().tokens] == [auth.digest(secret)]
    assert run(["tokens", "add", "ci", "--role", "admin"]) == 2
    assert run(["tokens", "revoke", "ci"]) == 0
    assert run(["tokens", "revoke", "ci"]) == 2
    assert "the tokens are: none" in capsys.readouterr().err
