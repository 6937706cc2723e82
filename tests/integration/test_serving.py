"""/predict, /health and /metrics over real HTTP, through the ingress: right answers, and problem documents."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from prometheus_client.samples import Sample

from raycls import cluster
from raycls.engines.predictor import Predictor
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult
from tests.conftest import METRICS_EXPORT_MS
from tests.predict import base64_of, counted, encoded, samples


@pytest.mark.parametrize(
    ("mode", "kind", "orientation"),
    [
        ("RGB", "PNG", None),
        ("RGB", "JPEG", None),
        ("L", "PNG", None),
        ("LA", "PNG", None),
        ("I;16", "PNG", None),
        ("P", "GIF", None),
        ("RGBA", "WEBP", None),
        ("CMYK", "JPEG", None),
        ("1", "BMP", None),
        ("RGB", "JPEG", 6),
        ("I;16", "PNG", 6),
    ],
)
def test_every_form_of_a_request_answers_as_the_predictor_does(
    post: Callable[..., requests.Response],
    predictor: Predictor,
    trained: TrainingResult,
    mode: str,
    kind: str,
    orientation: int | None,
) -> None:
    data = encoded(7, mode, kind, orientation=orientation)
    (expected,) = predictor.predict([data])
    answers = [
        post(data, f"image/{kind.lower()}"),
        post(data),
        post(None, None, files={"file": ("picture", data)}),
        post(json.dumps({"image_base64": base64_of(data)}), "application/json"),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert list(document) == ["class_index", "class_name", "confidence", "model_version"]
        assert document["class_name"] == expected.class_name
        assert document["class_index"] == expected.class_index
        assert document["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
        assert document["model_version"] == trained.version.version


def test_many_images_are_answered_in_order(
    post: Callable[..., requests.Response], predictor: Predictor
) -> None:
    images = [encoded(seed) for seed in range(8)]
    expected = predictor.predict(images)
    form = post(None, None, files=[("file", (f"{i}.png", data)) for i, data in enumerate(images)])
    document = json.dumps({"images_base64": [base64_of(data) for data in images]})
    for answer in (form, post(document, "application/json")):
        predictions = answer.json()["predictions"]
        assert [p["class_index"] for p in predictions] == [e.class_index for e in expected]
        assert [p["confidence"] for p in predictions] == pytest.approx(
            [e.confidence for e in expected], abs=1e-3
        )
    one = post(json.dumps({"images_base64": [base64_of(images[0])]}), "application/json").json()
    assert len(one["predictions"]) == 1


def test_top_k(post: Callable[..., requests.Response], predictor: Predictor) -> None:
    data = encoded(3)
    (expected,) = predictor.predict([data])
    document = post(data, query="?top_k=3").json()
    order = np.argsort(-expected.probabilities)[:3]
    assert [entry["class_index"] for entry in document["top_k"]] == order.tolist()
    assert document["top_k"][0]["confidence"] == document["confidence"]
    assert len(post(data, query="?top_k=999").json()["top_k"]) == len(predictor.card.classes)
    assert "top_k" not in post(data, query="?top_k=0").json()


def test_the_embedding_is_the_predictors(
    post: Callable[..., requests.Response], predictor: Predictor
) -> None:
    images = [encoded(seed) for seed in (3, 4)]
    expected = predictor.predict(images)
    one = post(images[0], query="?embedding=true").json()
    form = [("file", (f"{i}.png", data)) for i, data in enumerate(images)]
    both = post(None, None, files=form, query="?embedding=true&top_k=1").json()["predictions"]
    for answer, wanted in zip((one, *both), (expected[0], *expected), strict=True):
        largest = float(np.abs(wanted.embedding).max())
        assert answer["embedding"] == pytest.approx(wanted.embedding.tolist(), abs=1e-3 * largest)
    assert "embedding" not in post(images[0], query="?embedding=false").json()


def test_concurrent_requests_get_their_own_answers_and_share_batches(
    served: Served, post: Callable[..., requests.Response], predictor: Predictor
) -> None:
    images = [encoded(seed) for seed in range(300)]
    expected = predictor.predict(images)
    batches, images_before = counted(served)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(post, images))
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.status_code == 200, answer.text
        assert answer.json()["confidence"] == pytest.approx(wanted.confidence, abs=1e-3)
        assert answer.json()["class_index"] == wanted.class_index
    batches_after, images_after = counted(served)
    assert images_after - images_before == len(images)
    assert batches_after - batches < len(images)


def test_health_names_the_pinned_model(served: Served, trained: TrainingResult) -> None:
    answer = requests.get(f"{served.url}/health", timeout=10)
    version = trained.version
    assert answer.json() == {
        "status": "ok",
        "model": {"name": version.name, "version": version.version, "fingerprint": version.fingerprint},
        "engine": version.engine,
        "device": "cpu",
    }


def test_metrics_count_answers_by_status(served: Served, post: Callable[..., requests.Response]) -> None:
    post(b"no image")
    answer = requests.get(f"{served.url}/metrics", timeout=10)
    assert answer.headers["content-type"].startswith("text/plain")
    (line,) = [
        x for x in answer.text.splitlines() if x.startswith("raycls_requests_total") and 'status="415"' in x
    ]
    assert float(line.split()[-1]) >= 1


def test_ray_counts_the_same_answers(served: Served, post: Callable[..., requests.Response]) -> None:
    """Though a prediction does not go Ray's own way through a replica.

    Ray loses what a process counts before that process knows the node's agent, so what is compared are increases.
    """
    running = cluster.status()
    assert running is not None
    (found,) = json.loads((Path(running.directory) / "prom_metrics_service_discovery.json").read_text())
    (replica,) = {sample.labels["replica"] for sample in samples(f"{served.url}/metrics", "raycls_pending")}

    def of_replica(name: str) -> list[Sample]:
        pages = [f"http://{target}/metrics" for target in found["targets"]]
        deployment = [
            x for page in pages for x in samples(page, "ray_serve_deployment_request_counter_total")
        ]
        workers = {x.labels["WorkerId"] for x in deployment if x.labels["replica"] == replica}
        return [x for page in pages for x in samples(page, name) if x.labels["WorkerId"] in workers]

    def by_ray() -> float:
        answers = of_replica("ray_serve_num_http_requests_total")
        return sum(x.value for x in answers if x.labels["status_code"] == "415")

    def by_us() -> float:
        answers = samples(f"{served.url}/metrics", "raycls_requests_total")
        return sum(x.value for x in answers if x.labels["status"] == "415")

    deadline = time.monotonic() + 60
    before = -1.0
    # Until Ray tells what it counted, and has told all that earlier tests sent.
    while not of_replica("ray_serve_num_http_requests_total") or by_ray() != before:
        assert time.monotonic() < deadline, "Ray's agent does not tell what the replica counted"
        before = by_ray()
        time.sleep(3 * METRICS_EXPORT_MS / 1000)
    ours = by_us()
    for _ in range(3):
        assert post(b"no image").status_code == 415
    assert by_us() == ours + 3
    deadline = time.monotonic() + 30
    while by_ray() < before + 3:
        assert time.monotonic() < deadline, f"{by_ray() - before} of 3 by Ray's account"
        time.sleep(0.2)
    assert by_ray() == before + 3
    # Its agent would replay each of them.
    assert of_replica("ray_serve_deployment_processing_latency_ms_count") == []
    assert of_replica("ray_serve_http_request_latency_ms_count") == []


def test_a_share_of_the_requests_is_in_the_log(
    served: Served, post: Callable[..., requests.Response], trained: TrainingResult
) -> None:
    running = cluster.status()
    assert running is not None
    marker = f"image/x-{time.time_ns()}"
    for _ in range(100):
        assert post(encoded(), marker).status_code == 200

    def told() -> list[dict[str, Any]]:
        logs = Path(running.directory).glob("session_latest/logs/serve/replica_*.log")
        lines = [line for log in logs for line in log.read_text().splitlines() if marker in line]
        return [json.loads(line[line.index("{") :]) for line in lines]

    deadline = time.monotonic() + 10
    while not told() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert 2 <= len(told()) <= 50  # a fifth of them, by chance
    line = told()[0]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/predict", 200)
    assert line["model"] == trained.version.reference
    assert line["bytes_in"] == str(len(encoded()))
    assert 0 < line["ms"] < 10_000
    assert (len(line["request_id"]), line["client"]) == (36, "127.0.0.1")
