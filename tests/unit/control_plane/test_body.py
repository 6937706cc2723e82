"""Bodies that come slowly, and how many of contributors are read at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import pytest

from raycls.control_plane import application as applications
from raycls.control_plane import body
from raycls.control_plane.parcels import Checks
from raycls.control_plane.traffic import LastHour
from raycls.control_plane.work import Work
from raycls.serving import tokens
from raycls.serving.settings import ControlPlaneConfig

URL = "http://127.0.0.1:8000"


@pytest.fixture
def server(home: Path) -> httpx.AsyncClient:
    secret = tokens.add("sender", ("contribute",))
    app = applications.application(
        ControlPlaneConfig(),
        "127.0.0.1",
        hour=LastHour(),
        checks=Checks(1 << 20),
        work=Work(asyncio.to_thread),
    )
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url=URL, headers={"Authorization": f"Bearer {secret}"}
    )


async def _slowly(pieces: int, pause_s: float) -> AsyncIterator[bytes]:
    for _ in range(pieces):
        await asyncio.sleep(pause_s)
        yield b" "


def test_a_body_that_comes_too_slowly_is_given_up(
    server: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "PATIENCE_S", 0.2)

    async def send() -> httpx.Response:
        return await server.post("/feedback", content=_slowly(100, 0.05))

    answer = asyncio.run(send())
    assert answer.status_code == 408
    assert "too slowly" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"


def test_a_large_body_may_take_as_long_as_its_bytes_need(
    server: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "PATIENCE_S", 0.2)
    monkeypatch.setattr(body, "SLOWEST", 10)

    async def send() -> httpx.Response:
        return await server.post("/feedback", content=_slowly(10, 0.05))

    assert asyncio.run(send()).status_code == 400  # it was read, and is no document


def test_contributors_leave_places_for_admins(
    server: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = tokens.ensure_admin().read_text().strip()

    async def send() -> tuple[list[int], int]:
        waiting = [
            asyncio.create_task(server.post("/feedback", content=_slowly(20, 0.05)))
            for _ in range(applications.MOST_CONTRIBUTORS + 3)
        ]
        await asyncio.sleep(0.3)
        answer = await server.get("/retrain", headers={"Authorization": f"Bearer {admin}"})
        return sorted(answer.status_code for answer in await asyncio.gather(*waiting)), answer.status_code

    statuses, of_admin = asyncio.run(send())
    assert statuses == [400] * applications.MOST_CONTRIBUTORS + [429] * 3
    assert of_admin == 200
