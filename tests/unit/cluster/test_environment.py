"""The token that `ray start` needs, and ports."""

from __future__ import annotations

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raycls.cluster.environment import (
    ensure_token,
    environment,
    free_port,
    port_in_use,
    private,
    token,
    without_secrets,
)
from raycls.errors import ClusterError, UsageError


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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0.0.0.0", "::"])
def test_a_port_of_any_address_of_this_machine(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port_in_use(port, host)
    assert not port_in_use(port, host)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no such host"])
def test_an_address_of_another_machine_is_said_to_be_one(host: str) -> None:
    with pytest.raises(UsageError, match="is no address of this machine"):
        port_in_use(8000, host)


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


def test_processes_do_not_inherit_the_users_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLS_TOKEN", "secret")
    monkeypatch.delenv("RAYCLS_ADMIN_TOKEN", raising=False)
    with without_secrets():
        seen = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert "RAYCLS_TOKEN" not in seen
    assert os.environ["RAYCLS_TOKEN"] == "secret"
    assert "RAYCLS_ADMIN_TOKEN" not in os.environ
