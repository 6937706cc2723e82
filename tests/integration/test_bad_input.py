"""What no client should send, and what it gets: a problem document at once, and no replica any worse for it."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from PIL import Image

from raycls import cluster
from raycls.benchmark import usage
from raycls.engines.predictor import Predictor
from raycls.errors import ImageError
from raycls.serving.control.deploy import Served
from tests.predict import OCTETS, await_pending, base64_of, counted, encoded, expect_problem
from tests.unit.data.test_decode import run_length_bmp


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims that size and holds one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 3 * width))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BAD_BODIES: dict[str, tuple[bytes, str, int, str]] = {
    "empty": (b"", OCTETS, 400, "empty"),
    "truncated png": (encoded()[:-40], "image/png", 400, "truncated"),
    "truncated jpeg": (encoded(kind="JPEG")[:-40], "image/jpeg", 400, "truncated"),
    "text as image": (b"hello, I am a cat", "image/png", 415, "not an image"),
    "pdf as image": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "image/png", 415, "not an image"),
    "pdf": (b"%PDF-1.7", "application/pdf", 415, "application/pdf"),
    "format not accepted": (encoded(kind="TIFF"), "image/tiff", 415, "not an image"),
    "100 megapixels": (png_header(10_000, 10_000), "image/png", 413, "10000×10000"),
    "a billion pixels": (png_header(40_000, 40_000), "image/png", 413, "pixels"),
    "over the limit": (bytes(2**20 + 1), OCTETS, 413, "1,048,576"),
    "run-length encoded bmp": (run_length_bmp(50_000, 900), "image/bmp", 400, "run-length"),
    "64 megapixels in 8 images": (
        json.dumps({"images_base64": [base64_of(png_header(4000, 2000))] * 8}).encode(),
        "application/json",
        413,
        "64,000,000 pixels together",
    ),
    "no json": (b"{", "application/json", 400, "not valid JSON"),
    "nan": (b'{"image_base64": NaN}', "application/json", 400, "NaN"),
    "not utf-8": (b'{"image_base64": "\xff"}', "application/json", 400, "not valid JSON"),
    "deep": (b"[" * 100_000, "application/json", 400, "not valid JSON"),
    "a list": (b"[]", "application/json", 400, "image_base64"),
    "no field": (b"{}", "application/json", 400, "image_base64"),
    "wrong type": (b'{"image_base64": 1}', "application/json", 400, "image_base64"),
    "empty list": (b'{"images_base64": []}', "application/json", 400, "images_base64"),
    "one of another type": (b'{"images_base64": ["", null]}', "application/json", 400, "images_base64"),
    "a field more": (b'{"image_base64": "", "x": 1}', "application/json", 400, "image_base64"),
    "both fields": (b'{"image_base64": "", "images_base64": [""]}', "application/json", 400, "image_base64"),
    "a url": (b'{"image_base64": "http://127.0.0.1/cat.png"}', "application/json", 400, "base64"),
    "not base64": (b'{"image_base64": "a"}', "application/json", 400, "base64"),
    "not ascii": ('{"image_base64": "ä"}'.encode(), "application/json", 400, "base64"),
    "empty image": (b'{"image_base64": ""}', "application/json", 400, "empty"),
    "too many": (json.dumps({"images_base64": [""] * 9}).encode(), "application/json", 413, "at most 8"),
    "far too many": (
        json.dumps({"images_base64": [""] * 200_000}).encode(),
        "application/json",
        413,
        "at most 8",
    ),
    "form without boundary": (b"x", "multipart/form-data", 400, "form"),
    "broken form": (b"--b\r\nnonsense", "multipart/form-data; boundary=b", 400, "form"),
    "form of another field": (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n--b--\r\n',
        "multipart/form-data; boundary=b",
        400,
        "'file'",
    ),
    "ten thousand fields": (
        b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nx\r\n' * 10_000 + b"--b--\r\n",
        "multipart/form-data; boundary=b",
        400,
        "fields",
    ),
}


@pytest.mark.parametrize("row", BAD_BODIES)
def test_a_bad_body_gets_its_problem_document(post: Callable[..., requests.Response], row: str) -> None:
    body, content_type, status, words = BAD_BODIES[row]
    expect_problem(post(body, content_type), status, words)


def test_a_sender_that_dawdles_is_told_so(served: Served) -> None:
    slow = HTTPConnection(urlsplit(served.url).netloc, timeout=40)
    slow.putrequest("POST", "/predict")
    slow.putheader("Content-Type", OCTETS)
    slow.putheader("Content-Length", "100")
    slow.endheaders(b"x")
    answer = slow.getresponse()
    assert answer.status == 408
    assert "did not arrive within" in json.loads(answer.read())["detail"]
    slow.close()


@pytest.mark.parametrize("text", ["-1", "two", "1.5", "", "9" * 30, "٣"])
def test_a_bad_top_k(post: Callable[..., requests.Response], text: str) -> None:
    expect_problem(post(encoded(), query=f"?top_k={text}"), 400, "top_k")


def test_too_many_files_in_a_form(post: Callable[..., requests.Response]) -> None:
    answer = post(None, None, files=[("file", (f"{i}.png", b"x")) for i in range(20)])
    expect_problem(answer, 413, "")


def test_a_body_without_length_is_refused_when_it_passes_the_limit(
    served: Served, post: Callable[..., requests.Response]
) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 2 * 2**20:
            sent += 65536
            yield bytes(65536)

    expect_problem(post(chunks()), 413, "1,048,576")


def test_a_broken_image_fails_alone(post: Callable[..., requests.Response]) -> None:
    good, broken = encoded(), encoded()[:-40]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, [good, broken] * 40))
    assert [answer.status_code for answer in answers] == [200, 400] * 40
    form = post(None, None, files=[("file", ("a.png", good)), ("file", ("b.png", broken))])
    expect_problem(form, 400, "image 1:")


def test_wrong_paths_and_methods(served: Served) -> None:
    expect_problem(requests.get(f"{served.url}/nowhere", timeout=10), 404, "/nowhere")
    answer = requests.get(f"{served.url}/predict", timeout=10)
    expect_problem(answer, 405, "POST")
    assert answer.headers["allow"] == "POST"
    expect_problem(requests.post(f"{served.url}/health", timeout=10), 405, "GET")


FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_cut_short_anywhere_is_told_so(
    post: Callable[..., requests.Response], predictor: Predictor, kind: str
) -> None:
    data = encoded(5, kind=kind, size=(64, 48))
    for cut in np.linspace(0, len(data) - 1, 50, dtype=int):
        answer = post(data[:cut])
        try:
            predictor.predict([data[:cut]])
            readable = True  # some formats end with bytes that hold no pixels
        except ImageError:
            readable = False
        assert answer.status_code == 200 if readable else answer.status_code in (400, 415), (cut, answer.text)
        if not readable:
            assert answer.headers["content-type"] == "application/problem+json"


def test_random_bytes_whatever_they_claim_to_be(post: Callable[..., requests.Response]) -> None:
    random = np.random.default_rng(0)
    types = ["image/png", "image/jpeg", OCTETS, "application/json", "multipart/form-data; boundary=b"]
    for position in range(200):
        head = encoded(kind=FORMATS[position % 5])[: position % 40]  # the beginning of a real one
        data = head + random.bytes(int(random.integers(1, 5000)))
        answer = post(data, types[position % len(types)])
        assert answer.status_code in (400, 413, 415), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def bomb_in_a_chunk(kind: bytes) -> bytes:
    """A small PNG with 200 MB of zeros compressed into a text or profile chunk."""
    squeezed = zlib.compress(bytes(200 * 2**20), 9)
    data = b"name\0\0" + squeezed
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    whole = encoded()
    return whole[:33] + chunk + whole[33:]  # behind the header


def gif_header(width: int, height: int) -> bytes:
    """A GIF that claims that size and holds one pixel."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00\x3b"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame


BOMBS = {
    "png of 100 megapixels": (png_header(10_000, 10_000), 413),
    "gif of 4 gigapixels": (gif_header(65_535, 65_535), 413),
    "png with a zipped text": (bomb_in_a_chunk(b"zTXt"), None),
    "png with a zipped profile": (bomb_in_a_chunk(b"iCCP"), None),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_neither_time_nor_memory(
    post: Callable[..., requests.Response], name: str, served: Served
) -> None:
    body, status = BOMBS[name]
    assert post(encoded()).status_code == 200
    before = replica_mib()
    started = time.monotonic()
    answers = [post(body) for _ in range(10)]
    assert time.monotonic() - started < 10
    assert {answer.status_code for answer in answers} <= ({status} if status else {200, 400, 413, 415})
    assert replica_mib() - before < 50


def replica_mib() -> float:
    """The most memory that the replica has ever held."""
    running = cluster.status()
    assert running is not None
    (replica,) = usage.replicas(running.pid)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{replica.pid}/status").read_text())
    return int(peak) / 1024


def test_an_address_for_an_image_is_never_fetched(post: Callable[..., requests.Response]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/cat.png"
        expect_problem(post(url, "image/png"), 415, "not an image")
        expect_problem(post(json.dumps({"image_base64": url}), "application/json"), 400, "base64")
        expect_problem(post(json.dumps({"image_url": url}), "application/json"), 400, "image_base64")
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_flood_of_headers_is_refused(served: Served, post: Callable[..., requests.Response]) -> None:
    flood = {f"X-{i}": "x" * 1000 for i in range(90)}
    expect_problem(
        requests.post(f"{served.url}/predict", encoded(), headers=flood, timeout=10), 431, "headers"
    )
    assert post(encoded()).status_code == 200


def test_no_header_gives_ray_an_order(served: Served) -> None:
    for name, value in (
        ("x-request-id", b"\xff"),
        ("x-session-id", b"\xff"),
        ("serve_multiplexed_model_id", b"\xff"),
        ("traceparent", b"\xff"),
        ("x-request-timeout-seconds", b"\xff"),
        ("x-request-timeout-seconds", b"0.0001"),
    ):
        answer = requests.post(
            f"{served.url}/predict", encoded(), headers={name: value, "Content-Type": OCTETS}, timeout=10
        )
        assert answer.status_code == 200, (name, value, answer.text)


def test_more_explanations_than_one_request_gets(post: Callable[..., requests.Response]) -> None:
    form = [("file", (f"{i}.png", encoded(i))) for i in range(5)]
    expect_problem(post(None, None, files=form, query="?explain=true"), 413, "at most 4")


def _left(served: Served) -> float:
    """Requests whose client had left before its answer, from /metrics."""
    lines = requests.get(f"{served.url}/metrics", timeout=10).text.splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("raycls_requests_total") and '"499"' in line
    )


def test_the_work_of_a_client_that_leaves_is_dropped(
    served: Served, post: Callable[..., requests.Response]
) -> None:
    parts = urlsplit(served.url)
    assert parts.hostname and parts.port
    data = encoded()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {OCTETS}\r\nContent-Length: {len(data)}\r\n\r\n"
    # Seconds of decoding, which keep the batch thread from the others.
    buffer = io.BytesIO()
    Image.new("RGB", (7000, 7000)).save(buffer, "PNG")
    large = buffer.getvalue()
    batches, before = counted(served)
    left = _left(served)
    with ThreadPoolExecutor(5) as pool, ExitStack() as stack:
        busy = [pool.submit(post, large)]
        await_pending(served, 1)
        busy += [pool.submit(post, large) for _ in range(4)]
        deadline = time.monotonic() + 30
        while counted(served)[0] == batches:  # until those four are the batch that runs
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for _ in range(40):
            leaving = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=10))
            leaving.sendall(head.encode() + data)
        await_pending(served, 4 + 20)  # some of them HAProxy may keep for itself
        assert not all(request.done() for request in busy)
        stack.close()
        assert [request.result().status_code for request in busy] == [200] * 5
    assert post(data).status_code == 200
    _, after = counted(served)
    assert after - before == 5 + 1
    assert 0 < _left(served) - left <= 40  # of some the ingress knows before it has passed them on


def test_no_bad_input_restarted_the_replica(served: Served, post: Callable[..., requests.Response]) -> None:
    def replica() -> str:
        return requests.get(f"{served.url}/metrics", timeout=10).text.split('replica="')[1].split('"')[0]

    before = replica()
    for body, content_type, status, _ in BAD_BODIES.values():
        assert post(body, content_type).status_code == status
    assert replica() == before
    assert post(encoded()).status_code == 200
