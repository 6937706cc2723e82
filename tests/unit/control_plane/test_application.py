"""What holds for every route of the control plane."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from raycls.control_plane.application import ROUTES, application
from raycls.control_plane.parcels import Checks
from raycls.control_plane.route import ControlRoute
from raycls.control_plane.traffic import LastHour
from raycls.control_plane.work import Work
from raycls.ray_patches import haproxy_template
from raycls.serving import tokens
from raycls.serving.settings import ControlPlaneConfig

URL = "http://127.0.0.1:8000"


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    with TestClient(
        application(
            ControlPlaneConfig(),
            "127.0.0.1",
            hour=LastHour(),
            checks=Checks(1 << 20),
            work=Work(asyncio.to_thread),
        ),
        base_url=URL,
    ) as client:
        yield client


def _path(route: ControlRoute) -> str:
    return re.sub(r"{\w+}", "00000000", route.path)


def test_haproxy_sends_every_route_to_the_control_plane() -> None:
    assert {route.path.split("/")[1] for route in ROUTES} <= set(haproxy_template.ROUTES)


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.role], ids=lambda route: f"{route.method} {route.path}"
)
def test_without_a_token_a_route_is_closed(client: TestClient, route: ControlRoute) -> None:
    answer = client.request(route.method, _path(route))
    assert answer.status_code == 403
    assert f"raycls tokens add NAME --role {route.role}" in answer.json()["detail"]
    tokens.ensure_admin()
    assert client.request(route.method, _path(route)).status_code == 401


def test_a_token_learns_its_name_and_roles(client: TestClient) -> None:
    assert client.get("/whoami").status_code == 401
    secret = tokens.add("sender", ("predict", "contribute"))
    answer = client.get("/whoami", headers={"Authorization": f"Bearer {secret}"})
    assert answer.json() == {"name": "sender", "roles": ["predict", "contribute"]}


def test_what_is_unknown_is_a_problem_document(client: TestClient) -> None:
    secret = tokens.ensure_admin().read_text().strip()
    headers = {"Authorization": f"Bearer {secret}"}
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("PUT", "/experiments", 405),
        ("GET", "/experiments/ffffffff", 404),
        ("GET", "/retrain/ffffffff", 404),
        ("DELETE", "/experiments", 400),
        ("POST", "/experiments", 400),
        ("POST", "/retrain", 400),
    ):
        answer = client.request(method, path, headers=headers)
        assert (method, path, answer.status_code) == (method, path, status)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "invalid JSON"),
        (b"[]", "the body: input should be an object"),
        (b'{"share": "x"}', "share"),
        (b'{"share": 2}', "less than or equal to 1"),
        (b'{"share": 0.1, "other": 1}', "other"),
        (b"\xff" * 100, "invalid JSON"),
        (b"[" * 60_000, "invalid JSON"),
    ],
)
def test_a_body_that_is_wrong_says_how(client: TestClient, body: bytes, said: str) -> None:
    secret = tokens.ensure_admin().read_text().strip()
    answer = client.request(
        "PATCH", "/experiments", content=body, headers={"Authorization": f"Bearer {secret}"}
    )
    assert answer.status_code == 400
    assert said.lower() in answer.json()["detail"].lower()
    large = client.request(
        "PATCH", "/experiments", content=b"x" * 1_100_000, headers={"Authorization": f"Bearer {secret}"}
    )
    assert large.status_code == 413


def test_the_document_describes_every_route(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    assert {(method, path) for path, methods in found["paths"].items() for method in methods} == {
        (route.method.lower(), route.path) for route in ROUTES
    }
    for name, schema in found["components"]["schemas"].items():
        assert schema["properties"], name
