"""What the pages show, and what their forms ask the server for."""

from __future__ import annotations

import html
import json
import re
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from raycls.console import comparison
from tests.unit.console.fake_server import ANSWERS, ORIGIN, PICTURE, RECORD, REJECTION, Server, signed_in


def test_a_version_links_to_the_run_and_the_data_that_it_comes_from(client: TestClient) -> None:
    signed_in(client, "a")
    page = client.get("/models/pets/versions/7").text
    assert 'href="/runs/r1"' in page
    assert 'href="/datasets/pets/2"' in page


def test_a_version_shows_what_it_rejects_and_its_calibration_error(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in(client, "a")
    page = client.get("/models/pets/versions/7").text
    assert "with a confidence below 81.2%" in page
    assert "75.0% of 1,200 pictures are answered" in page
    name = "test_calibration_error"
    figures = {name: 0.01, f"{name}_low": 0.0, f"{name}_high": 0.02, f"{name}_before": 0.2}
    changed = {**ORIGIN, "metrics": figures, "rejection": None}
    monkeypatch.setitem(ANSWERS, "GET /models/pets/versions/7", changed)
    page = client.get("/models/pets/versions/7").text
    assert "1.0% (0.0% to 2.0%), before the temperature 20.0%" in page
    assert "It rejects" not in page


def test_the_first_page_knows_the_threshold(client: TestClient) -> None:
    signed_in(client, "a")
    (found,) = re.findall('data-model="([^"]*)"', client.get("/").text)
    assert json.loads(html.unescape(found)) == {"version": "7", "rejection": REJECTION}


def test_what_can_be_taken_away_is_made_first_and_saved_by_the_browser(
    client: TestClient, server: Server
) -> None:
    csrf = signed_in(client, "a")
    path = "/models/pets/versions/7"
    page = client.get(path).text
    assert f'href="{path}/files/onnx"' in page
    assert f'action="{path}/files/report"' in page
    assert "is being made since" in page
    answer = client.post(f"{path}/files/report", data={"csrf": csrf})
    assert (answer.status_code, answer.headers["location"]) == (303, path)
    assert ("POST", f"{path}/files/report", None) in server.asked
    file = client.get(f"{path}/files/onnx")
    assert file.content == PICTURE
    assert file.headers["content-type"] == "application/octet-stream"
    assert file.headers["content-disposition"] == "attachment"


def test_a_dataset_shows_what_its_check_found(client: TestClient, server: Server) -> None:
    csrf = signed_in(client, "a")
    page = client.get("/datasets/pets/2").text
    assert 'src="/datasets/pets/2/pictures/train/3"' in page
    assert "Check again" in page
    answer = client.post("/datasets/pets/2/check", data={"csrf": csrf})
    assert (answer.status_code, answer.headers["location"]) == (303, "/datasets/pets/2")
    assert ("POST", "/datasets/pets/2/check", None) in server.asked


def test_the_name_of_a_study_leads_to_its_run(client: TestClient) -> None:
    signed_in(client, "a")
    answer = client.get("/studies/search")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/r1")


def test_a_comparison_shows_the_pictures_on_which_both_differ(client: TestClient) -> None:
    signed_in(client, "a")
    page = client.get("/models/pets/comparison?challenger=7&champion=6").text
    assert 'src="/datasets/pets/2/pictures/gate/7"' in page
    assert re.search(r"is <b>better</b>", page)


def test_a_long_comparison_is_a_page_at_once_and_asked_for_once(client: TestClient, server: Server) -> None:
    signed_in(client, "a")
    server.holds = threading.Event()
    path = "/models/pets/comparison?challenger=7&champion=6"
    for _ in range(2):
        page = client.get(path).text
        assert 'id="comparison" data-making' in page
        assert "making.js" in page
        assert "pets/7 beside pets/6" in page
    server.holds.set()
    time.sleep(0.1)
    page = client.get(path).text
    assert "data-making" not in page
    assert re.search(r"is <b>better</b>", page)
    assert [asked for _, asked, _ in server.asked].count(path) == 1


def test_a_comparison_that_fails_is_told_with_its_status(client: TestClient) -> None:
    signed_in(client, "a")
    answer = client.get("/models/pets/comparison?challenger=99&champion=6")
    assert answer.status_code == 404
    assert "there is no such thing" in answer.text


def test_a_failed_comparison_is_told_before_a_page_begins_another_one() -> None:
    script = (Path(comparison.__file__).parent / "static" / "making.js").read_text()
    period, most = (int(re.search(rf"{name} = (\d+)", script)[1]) for name in ("PERIOD_MS", "MOST_FAILED"))
    assert (most + 2) * period / 1000 < comparison.FAILED_KEPT_S


def test_corrections_are_judged(client: TestClient, server: Server) -> None:
    csrf = signed_in(client, "a")
    assert client.get("/teach").text.count('value="rejected"') == 2
    given = {"csrf": csrf, "request_ids": "1f 2f ", "decision": "accepted"}
    assert client.post("/corrections", data=given).headers["location"] == "/teach#corrections"
    assert server.asked[-1] == (
        *("POST", "/feedback/review"),
        {"request_ids": ["1f", "2f"], "decision": "accepted"},
    )


def test_a_version_is_not_compared_with_itself_and_one_waits_for_another(
    client: TestClient, server: Server
) -> None:
    signed_in(client, "a")
    assert client.get("/models/pets/comparison?challenger=7&champion=7").status_code == 400
    server.busy = 1
    page = client.get("/models/pets/comparison?challenger=7&champion=6").text
    assert "data-making" in page
    deadline = time.monotonic() + 20
    while "data-making" in (page := client.get("/models/pets/comparison?challenger=7&champion=6").text):
        assert time.monotonic() < deadline
    assert re.search(r"is <b>better</b>", page)


def test_samples_are_pictures_of_the_test_split_of_the_newest_version(client: TestClient) -> None:
    signed_in(client, "a")
    found = client.get("/samples").json()["pictures"]
    assert len(set(found)) == 8
    assert all(re.fullmatch(r"/datasets/pets/1/pictures/test/[0-8]", path) for path in found)


def test_a_zip_goes_on_where_it_was(client: TestClient, server: Server) -> None:
    headers = {"X-Csrf": signed_in(client, "c")}
    begun = client.post("/parcels", json={"name": "photos.zip", "size": 9}, headers=headers).json()
    assert client.get(f"/parcels/{begun['id']}").json()["received"] == 4
    sent = client.post(f"/parcels/{begun['id']}?at=4", content=b"abcde", headers=headers)
    assert sent.status_code == 200
    assert [(method, path) for method, path, _ in server.asked[-3:]] == [
        ("POST", "/parcels"),
        ("GET", f"/parcels/{begun['id']}"),
        ("PUT", f"/parcels/{begun['id']}?at=4"),
    ]
    too_large = client.post(f"/parcels/{begun['id']}?at=4", content=bytes((8 << 20) + 1), headers=headers)
    assert too_large.status_code == 413


def test_the_last_hour_has_figures_charts_and_classes(client: TestClient) -> None:
    signed_in(client, "a")
    part = client.get("/live/hour").text
    assert "<html" not in part
    assert "p50 ms 2" in part
    assert "87.5%" in part


def test_a_study_shows_its_trials_and_its_pareto_front(client: TestClient) -> None:
    signed_in(client, "a")
    page = client.get("/runs/r1").text
    assert 'class="point-chosen"' in page
    assert "winner" in page


def test_a_promotion_is_asked_for_once_at_a_time_and_its_refusal_is_shown(
    client: TestClient, server: Server
) -> None:
    csrf = signed_in(client, "a")
    release = threading.Event()
    server.holds = release
    for _ in range(2):
        client.post("/models/pets/promote", data={"csrf": csrf, "version": "6", "force": ""})
    page = client.get("/models/pets").text
    assert "The server promotes version 6" in page
    assert "wait for that" in page
    release.set()
    deadline = time.monotonic() + 10
    while "it is not better" not in (page := client.get("/models/pets").text):
        assert time.monotonic() < deadline
    assert "The server promotes" not in page
    assert "it is not &lt;b&gt;better&lt;/b&gt;: <code>raycls promote</code> says more" in page
    assert server.asked.count(("POST", "/models/pets/promote", {"version": "6"})) == 1


def test_a_review_and_a_retraining_reach_the_server(client: TestClient, server: Server) -> None:
    csrf = signed_in(client, "a")
    wanted = {"dataset": "pets", "sha256": ["0" * 64], "decision": "accept"}
    answer = client.post("/review", content=json.dumps(wanted), headers={"X-Csrf": csrf})
    assert (answer.status_code, answer.json()["uploads"]) == (200, [RECORD])
    assert ("POST", "/uploads/review", wanted) in server.asked
    client.post("/retrain", data={"csrf": csrf, "model": "pets", "then": "nothing", "preset": "smoke"})
    assert ("POST", "/retrain", {"model": "pets", "then": "nothing", "preset": "smoke"}) in server.asked
