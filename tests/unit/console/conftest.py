"""The console without a server, and a browser of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from raycls.console.application import application
from raycls.serving.settings import ConsoleConfig
from tests.unit.console.fake_server import URL, Server


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(home: Path, server: Server) -> Iterator[TestClient]:
    app = application(ConsoleConfig(server=server.url), host="127.0.0.1")
    app.state.server = server
    with TestClient(app, base_url=URL, follow_redirects=False) as client:
        yield client
