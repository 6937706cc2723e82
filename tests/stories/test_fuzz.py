"""10,000 requests that nobody would write: /predict answers each with its 2xx or 4xx, and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from raycls.serving.control.deploy import Served
from tests.predict import OCTETS, encoded

CASES = 10_000
TRIES = 12_500  # of which hypothesis draws some in vain
FROM_DOCUMENT = 2400
KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
WHOLE = [encoded(seed, kind=kind) for seed, kind in enumerate(KINDS)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An image with some bytes replaced, left out or added."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=20))
    return bytes(data)


def form(parts: list[tuple[str, bytes]]) -> bytes:
    body = b""
    for name, data in parts:
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'
        body += head.encode("utf-8", "surrogateescape") + data + b"\r\n"
    return body + b"--b--\r\n"


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=50) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["image_base64", "images_base64"]) | st.text(max_size=5), inner, max_size=3
        )
    ),
    max_leaves=10,
)
names = st.text(st.characters(codec="utf-8", exclude_characters='"\r\n'), max_size=10)
bodies = st.one_of(
    st.binary(max_size=2000),
    damaged(),
    values.map(lambda value: json.dumps(value).encode()),
    st.lists(st.tuples(st.just("file") | names, damaged() | st.binary(max_size=100)), max_size=10).map(form),
)
types = st.one_of(
    st.sampled_from(
        [OCTETS, "image/png", "application/json", "multipart/form-data; boundary=b", "multipart/form-data"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
)
headers = st.dictionaries(
    st.sampled_from(
        [
            "X-Request-Id",
            "X-Request-Timeout-Seconds",
            "X-Request-Disconnect-Disabled",
            "X-Session-Id",
            "Serve_Multiplexed_Model_Id",
            "Accept",
            "Cookie",
        ]
    ),
    st.lists(st.integers(33, 255).filter(lambda byte: byte != 127), min_size=1, max_size=20).map(bytes),
    max_size=2,
)
queries = st.dictionaries(
    st.sampled_from(["top_k", "explain"]) | st.text(max_size=5), st.text(max_size=8), max_size=3
)


@pytest.mark.timeout(1200)
def test_whatever_is_sent_gets_an_answer_that_is_no_server_error(served: Served) -> None:
    seen: Counter[int] = Counter()
    with requests.Session() as session:

        @given(bodies, types, queries, headers)
        @settings(
            max_examples=TRIES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def send(body: bytes, content_type: str, query: dict[str, str], more: dict[str, bytes]) -> None:
            answer = session.post(
                f"{served.url}/predict",
                body,
                params=query,
                headers={"Content-Type": content_type, **more},
                timeout=10,
            )
            seen[answer.status_code] += 1
            assert answer.status_code < 500, answer.text
            document = answer.json()
            assert answer.ok or document["status"] == answer.status_code

        send()
    print(f"{sum(seen.values())} requests: {dict(sorted(seen.items()))}")
    assert sum(seen.values()) >= CASES
    assert {200, 400, 415} <= set(seen)


@pytest.mark.timeout(1200)
def test_the_openapi_document_is_kept_to(served: Served, tmp_path: Path) -> None:
    """schemathesis makes requests of the document, right ones and wrong ones, and compares the answers with it."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json"]
    command += [
        "--max-examples",
        str(FROM_DOCUMENT // 4),
        "--phases",
        "examples,coverage,fuzzing",
        "--no-color",
    ]
    command += ["--checks", "not_a_server_error,content_type_conformance,response_schema_conformance"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=600, check=False
    )
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
