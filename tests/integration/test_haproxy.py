"""HAProxy in front of the replicas: what it answers by itself, what it passes on, and who reaches its sockets."""

from __future__ import annotations

import json
import re
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.message import Message
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from raycls import cluster
from raycls.cluster.environment import environment
from raycls.ray_patches.haproxy_rules import FULL, MAX_PENDING, REFUSED_VARIABLE
from raycls.ray_patches.haproxy_template import REQUEST_S
from raycls.serving.control.deploy import Served
from tests.predict import OCTETS, encoded, until_status
from tests.tcp import data_segments


def _connected(served: Served) -> socket.socket:
    parts = urlsplit(served.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def _status(connection: socket.socket) -> int:
    """Read an answer."""
    response = HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


@pytest.mark.parametrize("sent", ["nonsense\r\n\r\n", "GET /he alth HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_what_is_no_request_is_refused(served: Served, sent: str) -> None:
    with _connected(served) as connection:
        connection.sendall(sent.encode())
        assert _status(connection) == 400


def test_headers_that_do_not_come_end_the_connection_while_others_are_answered(served: Served) -> None:
    began = time.monotonic()
    with _connected(served) as slow, _connected(served) as other:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: loc")
        other.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert _status(other) == 200
        assert _status(slow) == 408
        assert REQUEST_S - 1 < time.monotonic() - began < REQUEST_S + 5
        # Between two requests, a connection may be idle for longer.
        other.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert _status(other) == 200


@pytest.mark.parametrize(
    "extra",
    [
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
        "Sec-WebSocket-Version: 13\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    ],
)
def test_an_offer_of_another_protocol_is_passed_over(served: Served, extra: str) -> None:
    data = encoded()
    for head, body in (
        ("GET /health", b""),
        (f"POST /predict HTTP/1.1\r\nContent-Type: {OCTETS}\r\nContent-Length: {len(data)}", data),
    ):
        line = head if "HTTP/1.1" in head else f"{head} HTTP/1.1"
        with _connected(served) as connection:
            connection.sendall(f"{line}\r\nHost: localhost\r\n{extra}\r\n".encode() + body)
            assert _status(connection) == 200


def test_http2_is_answered(served: Served) -> None:
    asked = ["curl", "--silent", "--http2-prior-knowledge", "--max-time", "20", f"{served.url}/health"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if "does not support" in done.stderr or done.returncode == 2:
        pytest.skip("this curl has no HTTP/2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"


def test_nobody_else_reaches_its_sockets_and_ports(served: Served) -> None:
    running = cluster.status()
    assert running is not None
    sockets = [path for path in Path(running.directory).rglob("*.sock") if "admin" in path.name]
    assert sockets
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in sockets} == {0}
    haproxies = [process for process in running.head.members() if process.name() == "haproxy"]
    assert haproxies
    listening = {
        connection.laddr.ip
        for process in haproxies
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_its_configuration_says_what_ray_has_no_setting_for(served: Served) -> None:
    running = cluster.status()
    assert running is not None
    (config,) = Path(running.directory).rglob("haproxy.cfg")
    text = config.read_text()
    assert re.search(r"^    tune\.buffers\.limit \d+$", text, re.MULTILINE)
    for status in (502, 503, 504):
        assert re.search(
            rf"^    http-error status {status} content-type application/problem\+json", text, re.MULTILINE
        )
    assert "errorfile" not in text


@pytest.mark.parametrize("given", [None, "mine-1", "a,b", "", 'a"b', "a b", "x" * 201, "\xe4"])
def test_every_request_has_an_id_which_the_answer_repeats(served: Served, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    kept = given in ("mine-1", "a,b")  # a client's, where it needs no escaping
    answers = [
        requests.post(
            f"{served.url}/predict", encoded(), headers=headers | {"Content-Type": OCTETS}, timeout=10
        ),
        requests.post(
            f"{served.url}/predict", b"none", headers=headers | {"Content-Type": OCTETS}, timeout=10
        ),
        requests.get(f"{served.url}/uploads", headers=headers, timeout=10),
        requests.get(f"{served.url}/health", headers=headers, timeout=10),
    ]
    assert [answer.status_code for answer in answers] == [200, 415, 401, 200]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids == [given] * 4 if kept else len(set(ids)) == 4
    assert kept or all(re.fullmatch("[0-9a-f-]{36}", each) for each in ids)
    assert [answer.json()["request_id"] for answer in answers[1:3]] == ids[1:3]


def test_a_full_queue_answers_429_at_once_and_recovers(
    served: Served, post: Callable[..., requests.Response]
) -> None:
    """More at a time than it holds: the first ones it refuses itself, then HAProxy those that it sees as a whole."""
    before = _refused(served)
    answers = _flood(served)
    assert {status for status, _, _ in answers} == {200, 429}
    refused = [(headers, body) for status, headers, body in answers if status == 429]
    for headers, body in refused:
        assert json.loads(body) == FULL | {"request_id": headers["x-request-id"]}
        assert headers["content-type"] == "application/problem+json"
        assert int(headers["retry-after"]) >= 1
        assert MAX_PENDING not in headers
    assert until_status(200, post).status_code == 200  # and tells the replica how many HAProxy has refused
    assert _refused(served) - before == len(refused)
    # uvicorn names itself, HAProxy does not. It knows how many a replica holds from the first refusal of a replica.
    assert any("server" not in headers for headers, _ in refused)


def test_head_and_body_of_an_answer_come_together(served: Served) -> None:
    """HAProxy sends on what it has: a replica that was killed between the two would have lost the request."""
    while True:
        with _connected(served) as connection:
            answers = [_asked(connection, encoded(0))]
            while len(answers) < 50 and "close" not in answers[-1][1].get_all("connection", []):
                answers.append(_asked(connection, encoded(len(answers))))
            assert [status for status, _, _ in answers] == [200] * len(answers)
            if len(answers) == 50:  # else HAProxy was renewing its configuration, and said that it closes
                assert data_segments(connection) == 50
                return


def test_a_client_cannot_say_that_others_were_refused(
    served: Served, post: Callable[..., requests.Response]
) -> None:
    before = _refused(served)
    assert post(encoded(), headers={environment()[REFUSED_VARIABLE]: "1000"}).status_code == 200
    assert _refused(served) == before


def test_slow_senders_keep_nobody_else_out(served: Served, post: Callable[..., requests.Response]) -> None:
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {OCTETS}\r\nContent-Length: 100\r\n\r\n"
    )
    chunked = head.replace("Content-Length: 100", "Transfer-Encoding: chunked")
    _flood(served)  # HAProxy knows now how many a replica holds
    assert until_status(200, post).status_code == 200
    with ExitStack() as stack:
        for begun in [
            f"{head}x",
            chunked,
            f"{chunked}1\r\nx\r\n",
        ] * 70:  # each more than the replica holds requests
            waiting = stack.enter_context(_connected(served))
            waiting.sendall(begun.encode())
        time.sleep(1)
        assert [post(encoded(seed)).status_code for seed in range(20)] == [200] * 20
        assert [_at_once(served, encoded(seed))[0] for seed in range(20)] == [200] * 20


def _at_once(served: Served, data: bytes) -> tuple[int, Message, bytes]:
    """An answer to head and body in one piece, which `requests` sends in two: status, headers, body."""
    with _connected(served) as connection:
        return _asked(connection, data)


def _asked(connection: socket.socket, data: bytes) -> tuple[int, Message, bytes]:
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {OCTETS}\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.headers, response.read()


def _flood(served: Served) -> list[tuple[int, Message, bytes]]:
    """Three times as many at a time as a replica holds, each of which takes a while to decode."""
    with ThreadPoolExecutor(200) as pool:
        return list(pool.map(_at_once, [served] * 600, [encoded(size=(300, 300))] * 600))


def _refused(served: Served) -> float:
    """How many requests were answered 429, as GET /metrics has it."""
    lines = requests.get(f"{served.url}/metrics", timeout=10).text.splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if "raycls_requests_total" in line and '"429"' in line
    )
