"""The token that `ray start` needs, and ports."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raycls.cluster.environment import ensure_token, environment, free_port, port_in_use, private, token
from raycls.errors import ClusterError


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    path = tmp_path / "ray" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def test_a_token_is_made_once_and_for_its_owner_alone(token_file: Path) -> None:
    with pytest.raises(ClusterError, match="generate"):
        token()
    ensure_token()
    first = token()
    assert len(first) == 64
    assert token_file.stat().st_mode & 0o077 == 0
    ensure_token()
    assert token() == first
    assert list(token_file.parent.iterdir()) == [token_file]


def test_a_token_in_the_environment_needs_no_file(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    ensure_token()
    assert token() == "given"
    assert not token_file.exists()


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port_in_use(port)
        other = free_port(port)
        assert other != port and not port_in_use(other)
    assert free_port(other) == other


def test_no_variable_is_said_twice(tmp_path: Path) -> None:
    """What is private to one cluster must not contradict what all share."""
    assert not set(environment()) & set(private(tmp_path))


def test_the_ingress_of_one_cluster_keeps_to_its_directory(tmp_path: Path) -> None:
    paths = [value for name, value in private(tmp_path).items() if "PORT" not in name and "/" in value]
    assert len(paths) == 5
    assert all(Path(path).is_relative_to(tmp_path) for path in paths)


def test_threads_that_make_the_token_agree(token_file: Path) -> None:
    def make(_: int) -> str:
        ensure_token()
        return token()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(make, range(8)))) == 1
