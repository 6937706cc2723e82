"""Which requests go the short way through a replica, beside a replica that has what Ray's has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycls.ray_patches.direct_predict import DirectPredict


class Answering:
    takes_requests = True

    async def __call__(self, request: Request) -> Response:
        return Response("short")


class Another(Answering):
    takes_requests = False


class Replica:
    """The names of Ray's that are used, and which way a request went."""

    def __init__(self) -> None:
        self._user_callable_wrapper = SimpleNamespace(
            user_callable=Answering(), _run_user_code_in_separate_thread=False
        )
        self._deployment_id = SimpleNamespace(app_name="raycls")
        self._http_options = SimpleNamespace(request_timeout_s=None)
        self._route_prefix = "/"
        self.full = False
        self._semaphore = SimpleNamespace(locked=lambda: self.full)
        self.told: list[str] = []
        ingress = SimpleNamespace(processing_latency_tracker=SimpleNamespace(observe=self._observe))
        self._metrics_manager = SimpleNamespace(
            _processing_latency_tracker=SimpleNamespace(observe=self._observe),
            _ingress_metrics={"HTTP": ingress},
        )

    def _observe(self, value: float, tags: dict[str, str]) -> None:
        self.told.append("latency")

    def tell_latencies(self) -> None:
        """What Ray does with those of all requests, ten times a second."""
        metrics = self._metrics_manager
        metrics._processing_latency_tracker.observe(1.5, tags={"route": "/"})
        for ingress in metrics._ingress_metrics.values():
            ingress.processing_latency_tracker.observe(1.5, tags={"route": "/"})

    @contextmanager
    def _handle_errors_and_metrics(self, request: Any) -> Iterator[Any]:
        yield self.told.append

    @asynccontextmanager
    async def _start_request(self, request: Any) -> AsyncIterator[None]:
        self.told.append("ongoing")
        yield
        self.told.append("done")

    async def its_own(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.told.append("Ray's way")


@pytest.fixture(autouse=True)
def _log_level_of_serve_config() -> Iterator[None]:
    logger = logging.getLogger("ray.serve")
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(before)


class RequestIds:
    """What Ray puts around its replica's method."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def sent(
    replica: Replica, *, path: str = "/predict", method: str = "POST", moved_to: str | None = None
) -> list[Message]:
    answered: list[Message] = []

    async def send(message: Message) -> None:
        answered.append(message)

    way = DirectPredict(RequestIds(replica.its_own))
    if moved_to:
        replica._route_prefix = moved_to
    headers = [(b"x-request-id", b"a"), (b"host", b"x")]
    scope = {"type": "http", "path": path, "method": method, "headers": headers, "query_string": b""}
    asyncio.run(way(scope, None, send))  # type: ignore[arg-type]
    return answered


def test_a_prediction_is_answered_and_counted() -> None:
    replica = Replica()
    start, body = sent(replica)
    assert replica.told == ["ongoing", "200", "done"]
    assert body["body"] == b"short"
    assert start["headers"].count((b"x-request-id", b"a")) == 1


@pytest.mark.parametrize(
    "path", ["/models/pets/predict", "/models/pets/versions/3/predict", "/models/pets/v2/models/pets/infer"]
)
def test_each_of_several_models_has_the_direct_way(path: str) -> None:
    replica = Replica()
    replica._route_prefix = "/models/pets"
    sent(replica, path=path)
    assert replica.told == ["ongoing", "200", "done"]


def test_after_a_change_of_the_prefix_requests_go_rays_way() -> None:
    replica = Replica()
    assert sent(replica, moved_to="/other") == []
    assert replica.told == ["Ray's way"]


def test_what_predictions_take_is_told_to_ray_where_they_go_its_way() -> None:
    replica, other = Replica(), Replica()
    other._user_callable_wrapper.user_callable = Another()
    for each in (replica, other):
        sent(each)
        each.told.clear()
        each.tell_latencies()
    assert replica.told == []
    assert other.told == ["latency", "latency"]


@pytest.mark.parametrize(("path", "method"), [("/health", "GET"), ("/predict", "GET"), ("/predict/", "POST")])
def test_all_else_goes_rays_way(path: str, method: str) -> None:
    replica = Replica()
    assert sent(replica, path=path, method=method) == []
    assert replica.told == ["Ray's way"]


@pytest.mark.parametrize(
    "case", ["another deployment", "full", "own thread", "time limit", "log of each", "traces"]
)
def test_what_ray_has_to_do_itself_goes_its_way(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica()
    match case:
        case "another deployment":
            replica._user_callable_wrapper.user_callable = Another()
        case "full":
            replica.full = True
        case "own thread":
            replica._user_callable_wrapper._run_user_code_in_separate_thread = True
        case "time limit":
            replica._http_options.request_timeout_s = 5
        case "log of each":
            logging.getLogger("ray.serve").setLevel(logging.INFO)
        case "traces":
            monkeypatch.setattr("ray.serve._private.tracing_utils.is_tracing_enabled", lambda: True)
    assert sent(replica) == []
    assert replica.told == ["Ray's way"]
