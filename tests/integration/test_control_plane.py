"""The control plane behind HAProxy: each role on each route, hosts, origins, and tokens without a restart."""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from raycls import registry
from raycls.control_plane.application import ROUTES
from raycls.control_plane.route import ControlRoute
from raycls.data.versions import open_dataset
from raycls.serving import tokens
from raycls.serving.control.deploy import Served
from raycls.serving.prediction_id import HEADER, read
from raycls.serving.state import ROLES, Role, load
from tests.predict import base64_of, encoded
from tests.product import until, zip_of


@pytest.fixture
def token() -> Callable[[Role], str]:
    def made(role: Role) -> str:
        name = f"test-{role}"
        if any(known.name == name for known in load().tokens):
            tokens.revoke(name)
        return tokens.add(name, [role])

    return made


def _ask(served: Served, route: ControlRoute, secret: str | None, **headers: str) -> int:
    path = re.sub(r"{\w+}", "00000000", route.path)
    sent = headers | ({"Authorization": f"Bearer {secret}"} if secret else {})
    return requests.request(route.method, served.url + path, headers=sent, timeout=30).status_code


def test_each_role_reaches_its_own_routes(served: Served, token: Callable[[Role], str]) -> None:
    for role in ROLES[1:]:  # a token with the role `predict` would close /predict for the other tests
        secret = token(role)
        for route in ROUTES:
            status = _ask(served, route, secret)
            assert (status == 403) == (role not in (route.role or role, "admin")), (role, route, status)
            assert status not in (401, 404, 405, 500) or ("{" in route.path and status == 404)
    for route in ROUTES:
        assert _ask(served, route, None) == 401
        assert _ask(served, route, "x" * 64) == 401


def test_runs_and_datasets_are_told_as_mlflow_and_the_files_have_them(served: Served) -> None:
    headers = {"Authorization": f"Bearer {Path(served.admin_token).read_text().strip()}"}

    def get(path: str) -> Any:
        answer = requests.get(served.url + path, headers=headers, timeout=60)
        assert answer.ok, answer.text
        return answer.json()

    champion = registry.resolve(served.model)
    listed = get("/runs?dataset=digits")
    assert champion.run_id in {run["id"] for run in listed["runs"]}
    run = get(f"/runs/{champion.run_id}")
    assert (run["status"], run["kind"]) == ("FINISHED", "training")
    assert [row["epoch"] for row in run["history"]] == list(range(1, len(run["history"]) + 1))
    assert run["metrics"]["val_accuracy"] == pytest.approx(champion.metrics["val_accuracy"])
    digits = open_dataset("digits").info
    found = get(f"/datasets/digits/{digits.version}")
    assert (found["fingerprint"], found["counts"]) == (digits.fingerprint, digits.counts)
    assert {"digits"} <= {each["name"] for each in get("/datasets")["datasets"]}
    assert get("/datasets/served") == {"name": "digits"}
    sheet = requests.get(f"{served.url}/datasets/digits/{digits.version}/sheet", headers=headers, timeout=60)
    assert Image.open(io.BytesIO(sheet.content)).format == "PNG"
    picture = requests.get(
        f"{served.url}/datasets/digits/{digits.version}/pictures/test/3", headers=headers, timeout=60
    )
    pixels = np.asarray(Image.open(io.BytesIO(picture.content)))
    np.testing.assert_array_equal(pixels, open_dataset("digits").images("test")[3])
    same = get(f"/datasets/digits/{digits.version}/differences?since={digits.version}")
    assert {same[kind]["count"] for kind in ("added", "removed", "relabelled", "moved")} == {0}
    checked = f"/datasets/digits/{digits.version}/check"
    assert requests.post(served.url + checked, headers=headers, timeout=60).json()["state"] == "making"
    until(lambda: get(checked)["state"] == "ready", 120)
    last = get(checked)["last"]
    assert last["predictions"].startswith(f"digits/{champion.version} predicts")
    origin = get(f"/models/digits/versions/{champion.version}")
    assert [step["state"] for step in origin["lineage"]] == ["verified"] * 3
    assert run["findings"]
    for path in (
        *("/runs/0000", "/datasets/digits/999", "/datasets/digits/x", "/studies/none"),
        *("/models/digits/versions/99", "/models/digits/versions/x", "/models/digits/comparison"),
        *("/datasets/digits/1/pictures/test/99999", "/datasets/digits/1/pictures/..%2Ftest/0"),
    ):
        assert requests.get(served.url + path, headers=headers, timeout=60).status_code == 404


def test_a_report_and_an_export_are_made_beside_and_sent_as_files(served: Served) -> None:
    headers = {"Authorization": f"Bearer {Path(served.admin_token).read_text().strip()}"}
    version = registry.champion("digits")
    assert version is not None
    files = f"{served.url}/models/digits/versions/{version.version}/files"

    def states() -> dict[str, str]:
        found = requests.get(files, headers=headers, timeout=60).json()["files"]
        return {file["kind"]: file["error"] or file["state"] for file in found}

    for kind in ("report", "onnx"):
        if states()[kind] == "absent":
            assert requests.get(f"{files}/{kind}", headers=headers, timeout=60).status_code == 404
            begun = requests.post(f"{files}/{kind}", headers=headers, timeout=60).json()
            assert begun["state"] == "making"
    until(lambda: {states()["report"], states()["onnx"]} == {"ready"}, 240)
    report = requests.get(f"{files}/report", headers=headers, timeout=60)
    assert report.headers["content-type"] == "application/octet-stream"
    assert f"digits-{version.version}-report.html" in report.headers["content-disposition"]
    assert report.text.lower().startswith("<!doctype html>")
    exported = requests.get(f"{files}/onnx", headers=headers, timeout=60)
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        names = [f"digits-{version.version}.onnx", f"digits-{version.version}.onnx.json"]
        assert sorted(archive.namelist()) == names
    assert requests.post(f"{files}/exe", headers=headers, timeout=60).status_code == 404


def test_the_last_hour_knows_what_was_answered(served: Served) -> None:
    headers = {"Authorization": f"Bearer {Path(served.admin_token).read_text().strip()}"}

    def hour() -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{served.url}/live", headers=headers, timeout=30).json()
        return found

    def requests_until(count: int) -> int:
        for _ in range(60):
            found = hour()
            if found["hour"] and found["hour"]["requests"] >= count:
                break
            time.sleep(0.5)
        return int((found["hour"] or {"requests": 0})["requests"])

    before = requests_until(0)
    for seed in range(5):
        answer = requests.post(
            f"{served.url}/predict", encoded(seed), headers={"Content-Type": "image/png"}, timeout=30
        )
        assert answer.ok
    assert requests_until(before + 5) >= before + 5
    found = hour()
    assert found["replicas"] == 1
    assert set(found["classes"]) <= set(open_dataset("digits").info.classes)


def test_a_zip_in_pieces_is_checked_and_its_pictures_wait(
    served: Served, token: Callable[[Role], str]
) -> None:
    digits = open_dataset("digits")
    noise = np.random.default_rng(5).integers(0, 9, (3, *digits.images("train").shape[1:]))
    fresh = np.clip(digits.images("train")[:3].astype(int) + noise, 0, 255).astype(np.uint8)
    labels = [digits.info.classes[label] for label in digits.labels("train")[:3]]
    data = zip_of(fresh, labels)
    headers = {"Authorization": f"Bearer {token('contribute')}"}

    def ask(method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, served.url + path, headers=headers, timeout=30, **options)

    assert ask("POST", "/parcels", json={"name": "a", "size": 5, "dataset": "none"}).status_code == 404
    parcel = ask("POST", "/parcels", json={"name": "new.zip", "size": len(data)}).json()
    path = f"/parcels/{parcel['id']}"
    assert ask("PUT", f"{path}?at=0", data=data[:100]).json()["received"] == 100
    assert ask("PUT", f"{path}?at=0", data=data).status_code == 409
    admin = {"Authorization": f"Bearer {Path(served.admin_token).read_text().strip()}"}
    assert requests.get(served.url + path, headers=admin, timeout=30).status_code == 404, "another's upload"
    assert ask("PUT", f"{path}?at=100", data=data[100:]).status_code == 200
    until(lambda: ask("GET", path).json()["state"] == "done", 30)
    answer = ask("GET", path).json()["answer"]
    assert sorted(each["label"] for each in answer["taken"]) == sorted(labels)
    for each in answer["taken"]:
        assert requests.delete(f"{served.url}/uploads/{each['sha256']}", headers=admin, timeout=30).ok, (
            "later tests find the queue empty"
        )


def test_two_versions_are_compared_on_the_same_pictures(served: Served) -> None:
    headers = {"Authorization": f"Bearer {Path(served.admin_token).read_text().strip()}"}
    number = registry.resolve(served.model).version
    answer = requests.get(
        f"{served.url}/models/digits/comparison?challenger={number}&champion={number}",
        headers=headers,
        timeout=120,
    )
    found = answer.json()
    assert answer.ok, found
    assert found["pictures"] == open_dataset("digits").info.counts["gate"]
    assert (found["apart"], found["pictures_apart"], found["confusions_apart"]) == (0, [], [])


def test_no_page_of_another_site_presses_a_button(served: Served, token: Callable[[Role], str]) -> None:
    secret = token("admin")
    for route in ROUTES:
        status = _ask(served, route, secret, Origin="http://evil.example")
        assert (status == 403) == route.changes
        assert _ask(served, route, secret, Host="evil.example") == 421


@pytest.mark.parametrize(
    "path", ["/predict", "/health", "/metrics", "/livez", "/readyz", "/openapi.json", "/models"]
)
def test_every_route_knows_its_host(served: Served, path: str) -> None:
    method = "POST" if path == "/predict" else "GET"
    foreign = requests.request(method, served.url + path, headers={"Host": "evil.example"}, timeout=30)
    assert foreign.status_code == 421
    assert foreign.headers["content-type"] == "application/problem+json"


def test_the_admin_token_of_up_lists_the_models_until_it_is_revoked(served: Served) -> None:
    headers = {"Authorization": f"Bearer {Path(served.admin_token).read_text().strip()}"}
    listed = requests.get(f"{served.url}/models", headers=headers, timeout=30)
    assert listed.ok
    assert {model["name"] for model in listed.json()["models"]} >= {"digits"}
    assert requests.get(f"{served.url}/control/models", headers=headers, timeout=30).json() == listed.json()
    tokens.revoke("admin")
    assert requests.get(f"{served.url}/models", headers=headers, timeout=30).status_code in (401, 403)
    tokens.ensure_admin()


def test_a_predict_token_closes_predictions_for_others_within_seconds(
    served: Served, post: Callable[..., requests.Response]
) -> None:
    secret = tokens.add("client", ["predict"])
    try:
        _until(lambda: post(encoded()).status_code == 401)
        assert post(encoded(), headers={"Authorization": f"Bearer {secret}"}).ok
        assert requests.get(f"{served.url}/metrics", timeout=30).status_code == 401
        assert requests.get(f"{served.url}/readyz", timeout=30).status_code == 200
    finally:
        tokens.revoke("client")
    _until(lambda: post(encoded()).ok)


def test_an_answer_carries_a_signed_id(served: Served, post: Callable[..., requests.Response]) -> None:
    answer = post(encoded())
    claims = read(load().signing_key, answer.headers[HEADER])
    assert claims.model == registry.resolve("digits").reference
    ((index, confidence),) = claims.predicted
    assert index == answer.json()["class_index"]
    assert confidence == pytest.approx(answer.json()["confidence"], abs=1e-4)


def test_dark_pictures_alarm_and_ordinary_ones_do_not(
    served: Served, post: Callable[..., requests.Response], token: Callable[[Role], str]
) -> None:
    """GET /drift and /metrics. A window begins with the pictures of other tests, so the first ones do not count."""
    headers = {"Authorization": f"Bearer {token('admin')}"}
    dataset = open_dataset("digits")
    ordinary = np.concatenate([dataset.images("test"), dataset.images("gate")])

    def windows() -> list[dict[str, Any]]:
        found = requests.get(f"{served.url}/drift", headers=headers, timeout=30)
        assert found.ok, found.text
        return list(found.json()["windows"])

    def sent_until(pictures: np.ndarray, true: Callable[[dict[str, Any]], bool]) -> None:
        """Send the pictures again and again, until it is true of the last window, but of the third at the earliest."""
        before, deadline = len(windows()), time.monotonic() + 90
        while len(windows()) < before + 3 or not true(windows()[0]):
            assert time.monotonic() < deadline, windows()[:1]
            for start in range(0, len(pictures), 8):
                images = [base64_of(_png(each)) for each in pictures[start : start + 8]]
                assert post(json.dumps({"images_base64": images}), "application/json").ok

    sent_until(ordinary, lambda window: window["alarms"] == [])
    last = windows()[0]
    assert last["version"] == registry.resolve("digits").reference
    assert last["images"] >= 100
    sent_until(ordinary // 4, lambda window: {"brightness", "contrast"} <= set(window["alarms"]))

    def reported() -> bool:
        text = requests.get(f"{served.url}/metrics", timeout=30).text
        return 'raycls_drift_alarm{feature="brightness"} 1.0' in text

    _until(reported)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
