"""Each of doctor's checks on what it might find."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from raycls.cluster.environment import environment
from raycls.cluster.lifecycle import complaint
from raycls.serving import tokens
from raycls.serving.control import doctor
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.doctor import Node

CONFIG = Path(__file__).parents[4] / "serve_config.yaml"


def node(name: str = "head", *, sees_storage: bool = True, **changed: str) -> Node:
    return Node(name=name, environment=environment() | changed, sees_storage=sees_storage)


def batching(**deployment: int) -> list[doctor.Finding]:
    document = ServeConfiguration.read(CONFIG)
    document.deployment |= deployment
    return doctor.batching(document)


def test_the_shipped_file_is_healthy() -> None:
    assert [finding.ok for finding in batching()] == [True]


def test_batches_that_ongoing_requests_cannot_fill() -> None:
    findings = batching(max_ongoing_requests=90)
    assert [finding.ok for finding in findings] == [False, False]
    assert "128 or more" in findings[0].mend
    assert "max_pending" in findings[1].text


def test_serves_default_counts_where_the_file_says_nothing() -> None:
    document = ServeConfiguration.read(CONFIG)
    del document.deployment["max_ongoing_requests"]
    assert "max_ongoing_requests 5 " in doctor.batching(document)[0].text


def test_ingress() -> None:
    assert doctor.ingress([node(), node("worker")]).ok
    finding = doctor.ingress([node(), node("worker", RAY_SERVE_ENABLE_HA_PROXY="0")])
    assert not finding.ok
    assert "worker" in finding.text and "head" not in finding.text
    assert "RAY_SERVE_ENABLE_HA_PROXY" in finding.text
    assert "raycls env" in finding.mend


def test_authentication() -> None:
    assert doctor.authentication([node()]).ok
    finding = doctor.authentication([node(RAY_AUTH_MODE="disabled"), node("worker")])
    assert not finding.ok
    assert "head" in finding.text


def test_storage() -> None:
    assert doctor.shared_storage("/data/runs", [node()]).ok
    found = doctor.shared_storage("s3://me:secret@bucket/runs", [node(), node("worker", sees_storage=False)])
    assert (found.ok, found.text) == (True, "all nodes reach the storage s3://bucket/runs")
    finding = doctor.shared_storage("/data/runs", [node(), node("worker", sees_storage=False)])
    assert not finding.ok
    assert "worker" in finding.text
    assert "RAYCLS_STORAGE" in finding.mend


def test_nodes_reach_each_others_replicas() -> None:
    assert doctor.reach("127.0.0.1", [node()]).ok
    assert doctor.reach("0.0.0.0", [node(), node("worker")]).ok
    assert not doctor.reach("10.0.0.5", [node(), node("worker")]).ok, "which is one node's"
    finding = doctor.reach("127.0.0.1", [node(), node("worker")])
    assert not finding.ok
    assert "none reaches the replicas of another" in finding.text
    assert "deploy/serve_config.yaml" in finding.mend


def test_a_free_port_and_one_of_another_program() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    assert doctor.http_port(ServeConfiguration.read(CONFIG).pinned(port=port)).ok

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        finding = doctor.http_port(ServeConfiguration.read(CONFIG).pinned(port=server.server_port))
        server.shutdown()
    assert not finding.ok
    assert "--port" in finding.mend


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    assert doctor.writable(tmp_path / "new" / "home").ok
    file = tmp_path / "file"
    file.write_text("")
    assert not doctor.writable(file).ok


def test_no_champion(home: Path) -> None:
    finding = doctor.champion()
    assert not finding.ok
    assert "raycls t" in finding.mend


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("InvalidAuthToken: Authentication token is missing or incorrect"), "RAY_AUTH_TOKEN"),
        (RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.50.0"), "Ray: 2.50.0"),
        (ConnectionError("Failed to connect"), "raycls up"),
    ],
)
def test_what_ray_says_about_a_connection(error: Exception, words: str) -> None:
    line = complaint("10.0.0.1:6379", error)
    assert words in line and "\n" not in line


def test_a_host_that_others_reach_without_a_token(home: Path) -> None:
    document = ServeConfiguration.read(CONFIG).pinned(host="0.0.0.0")
    found = doctor.exposure(document)
    assert not found.ok
    assert "other machines reach it" in found.text
    assert "raycls tokens add NAME --role predict" in found.mend
    document.arguments["token_sha256"] = "0" * 64
    assert doctor.exposure(document).ok
    del document.arguments["token_sha256"]
    tokens.add("camera", ["predict"])
    assert doctor.exposure(document).text == "/predict on 0.0.0.0 asks for a token"
    document.arguments["no_auth"] = True
    assert doctor.exposure(document).text == "/predict on 0.0.0.0 asks for no token"
    assert doctor.exposure(ServeConfiguration.read(CONFIG)).ok
