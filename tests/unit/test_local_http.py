"""Requests to this machine take no proxy; requests to others take the one of the environment."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from aiohttp import web
from PIL import Image

from raycls import local_http
from raycls.cli import run


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> str:
    """A proxy in the environment, at a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return proxy


async def _predict(request: web.Request) -> web.Response:
    answer = {"class_index": 0, "class_name": "cat", "confidence": 1.0, "model_version": "1"}
    return web.json_response(answer)


def test_a_prediction_by_this_machine_takes_no_proxy(
    dead_proxy: str, serve: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(_predict)
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)  # what any client of the environment's proxy meets
    image = tmp_path / "cat.png"
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    image.write_bytes(picture.getvalue())
    assert run(["predict", url, str(image), "--json"]) == 0
    assert "cat" in capsys.readouterr().out


def test_a_file_that_is_no_picture_does_not_keep_the_others_from_an_answer(
    serve: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def picky(request: web.Request) -> web.Response:
        if b"no picture" in await request.read():
            return web.json_response({"detail": "not an image"}, status=415)
        return await _predict(request)

    url = serve(picky)
    good, bad, missing = tmp_path / "cat.png", tmp_path / "note.txt", tmp_path / "gone.png"
    good.write_bytes(b"a cat")
    bad.write_bytes(b"no picture")
    files = [str(path) for path in (bad, good, missing, good)]
    assert run(["predict", url, *files]) != 0
    printed = capsys.readouterr()
    assert printed.out.count("cat.png: cat") == 2
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: {bad}: not an image (HTTP 415)",
        f"error: cannot read {missing}: No such file or directory",
    ]
    assert run(["predict", url, *files, "--json"]) != 0
    answers = json.loads(capsys.readouterr().out)["predictions"]
    assert [answer.get("class_name", answer.get("file")) for answer in answers] == [
        str(bad),
        "cat",
        str(missing),
        "cat",
    ]


def test_the_counts_of_this_machine_take_no_proxy(dead_proxy: str, serve: Callable[..., str]) -> None:
    from raycls.serving.client.scrape import read

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text="")

    url = serve(_predict, metrics)
    assert read(url.replace("/predict", "/metrics")) == {}


def test_another_machine_takes_the_proxy(dead_proxy: str) -> None:
    with local_http.session("http://example.org/predict") as session:
        assert session.trust_env
        found = session.merge_environment_settings("http://example.org/predict", {}, False, True, None)
    assert found["proxies"]["http"] == dead_proxy
    with local_http.session("http://127.0.0.1:8000/predict") as session:
        assert not session.trust_env


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("pc", False),
    ],
)
def test_loopback(host: str, local: bool) -> None:
    assert local_http.is_loopback(host) is local


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("10.0.0.5", "http://10.0.0.5:8000"),
        ("pc", "http://pc:8000"),
    ],
)
def test_where_this_machine_reaches_its_own_server(host: str, url: str) -> None:
    assert local_http.url_here(host, 8000) == url
