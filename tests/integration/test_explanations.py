"""/predict?explain=true: pictures of the places that spoke for an answer, made beside the predictions."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import requests
from PIL import Image

from raycls import cluster
from raycls.serving.control.deploy import Served
from tests.predict import encoded, expect_problem, samples, until_status


def test_an_explanation_is_a_picture_beside_the_same_answer(post: Callable[..., requests.Response]) -> None:
    data = encoded(3)
    assert until_status(200, post, "?explain=true").status_code == 200  # what explains has started
    plain, explained = post(data).json(), post(data, query="?explain=true").json()
    overlay, seen = (
        Image.open(io.BytesIO(base64.b64decode(explained.pop(field))))
        for field in ("explanation_png_base64", "seen_png_base64")
    )
    assert explained == plain
    assert overlay.format == seen.format == "PNG"
    assert seen.size == (8, 8)
    assert np.asarray(overlay).std() > 5  # neither black nor blank
    assert np.asarray(seen).std() > 5
    assert overlay.size == (128, 128)
    form = [("file", (f"{i}.png", encoded(i))) for i in range(2)]
    both = post(None, None, files=form, query="?explain=true").json()["predictions"]
    first, second = (prediction["explanation_png_base64"] for prediction in both)
    assert first != second


def test_its_latency_is_no_predictions(served: Served, post: Callable[..., requests.Response]) -> None:
    def predictions() -> float:
        return sum(each.value for each in samples(f"{served.url}/metrics", "raycls_request_seconds_count"))

    assert until_status(200, post, "?explain=true").status_code == 200
    before = predictions()
    assert post(encoded(), query="?explain=%74rue").status_code == 200
    assert predictions() == before
    assert post(encoded(), query="?explain=false").status_code == 200
    assert predictions() == before + 1


def test_more_explanations_than_can_wait_are_told_to_come_back_and_harm_nobody(
    post: Callable[..., requests.Response],
) -> None:
    def explain(seed: int) -> int:
        return post(encoded(seed), query="?explain=true").status_code

    assert until_status(200, post, "?explain=true").status_code == 200  # what explains has started
    with ThreadPoolExecutor(40) as pool:
        explained = pool.map(explain, range(40))
        assert all(post(encoded(seed)).status_code == 200 for seed in range(20))
        assert set(explained) == {200, 429}
    assert explain(0) == 200


def _explaining(post: Callable[..., requests.Response]) -> psutil.Process:
    """The process that makes the explanations, once it has made one."""
    assert until_status(200, post, "?explain=true").status_code == 200
    running = cluster.status()
    assert running is not None
    (maker,) = [
        process for process in running.head.members() if process.name().startswith("ray::_OverlayMaker")
    ]
    return maker


def test_who_gets_no_explanation_in_time_is_told_to_come_back(
    post: Callable[..., requests.Response],
) -> None:
    maker = _explaining(post)
    maker.suspend()
    try:
        answer = post(encoded(), query="?explain=true")
    finally:
        maker.resume()
    expect_problem(answer, 429, "no explanation was ready in")
    assert answer.headers["Retry-After"] == "1"
    assert until_status(200, post, "?explain=true").status_code == 200


def test_what_explains_is_started_again_when_it_has_ended(post: Callable[..., requests.Response]) -> None:
    maker = _explaining(post)
    maker.kill()
    maker.wait()
    expect_problem(post(encoded(), query="?explain=true"), 503, "ended")
    assert post(encoded()).status_code == 200
    assert until_status(200, post, "?explain=true").status_code == 200
