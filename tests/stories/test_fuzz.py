"""Requests that nobody would write: the server answers each with its 2xx or 4xx, and goes on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from raycls.lifecycle.uploads import Uploads
from raycls.serving.control.deploy import Served
from tests.predict import OCTETS, encoded

CASES = int(os.environ.get("RAYCLS_FUZZ_CASES", "1000"))
TRIES = CASES * 5 // 4  # of which hypothesis draws some in vain
CONTROL_TRIES = CASES // 4  # an upload takes ten times as long as a prediction
FROM_DOCUMENT = CASES * 6 // 25
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


DOCUMENTS = {
    "/feedback": ["prediction_id", "label", "position"],
    "/feedback/review": ["request_ids", "decision"],
    "/uploads/review": ["dataset", "sha256", "decision", "label"],
    "/experiments": ["challenger", "mode", "share"],
    "/retrain": ["model", "then", "preset", "settings", "trust"],
    "/models/digits/promote": ["version", "force", "new_classes"],
}
known = st.sampled_from(
    ["digits", "accept", "waiting", "shadow", "0" * 64, "cat", "../x", "\0", 0.5, -1, 2**70]
)
documents = st.sampled_from(sorted(DOCUMENTS)).flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.dictionaries(
            st.sampled_from(DOCUMENTS[path]) | st.text(max_size=5),
            values | known | st.lists(known, max_size=3),
            max_size=5,
        )
        # A whole and right document would begin real work.
        .filter(lambda found: found.get("model") != "digits" and "version" not in found)
        .map(lambda found: json.dumps(found).encode()),
        st.just("application/json"),
    )
)
pictures = damaged() | st.sampled_from(WHOLE)
parts = st.one_of(
    st.tuples(st.just("label"), st.sampled_from([b"3", b"7", b"cat", b"", b"../3", b"\xff"])),
    st.tuples(st.just("file"), pictures),
    st.tuples(st.just("file"), pictures),
    st.tuples(names, pictures | st.binary(max_size=60)),
)


def upload_form(parts: list[tuple[str, bytes]]) -> bytes:
    """Fields, and files where the name says so."""
    body = b""
    for name, data in parts:
        file = "" if name == "label" else '; filename="x"'
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode("utf-8", "surrogateescape") + data + b"\r\n"
    return body + b"--b--\r\n"


def zipped(entries: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # two entries of one name
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


entry_names = st.sampled_from(
    ["3/a.png", "7/b.jpg", "cat/c.png", "../3/d.png", "/3/e.png", "3/", "a.png", "a"]
)
right_forms = st.tuples(st.tuples(st.just("label"), st.just(b"3")), st.tuples(st.just("file"), pictures)).map(
    list
)
multipart = st.just("multipart/form-data; boundary=b")
any_type = st.sampled_from(
    ["multipart/form-data; boundary=b", "multipart/form-data", "application/zip", OCTETS]
)
uploads = st.one_of(
    st.tuples(right_forms.map(upload_form), multipart),
    st.tuples(st.lists(parts, max_size=6).map(upload_form), multipart),
    st.tuples(st.lists(st.tuples(entry_names, pictures), max_size=4).map(zipped), st.just("application/zip")),
    st.tuples(st.binary(max_size=500) | st.lists(parts, max_size=3).map(upload_form), any_type),
).map(lambda upload: ("/upload_training_data?dataset=digits", *upload))


@pytest.mark.timeout(1200)
def test_whatever_is_sent_to_the_control_plane_gets_an_answer_and_only_what_was_taken_is_stored(
    served: Served,
) -> None:
    secret = Path(served.admin_token).read_text().strip()
    authorized = {"Authorization": f"Bearer {secret}"}
    seen: Counter[int] = Counter()
    taken: set[str] = set()
    before = set(Uploads().records().of)
    with requests.Session() as session:

        def sent(path: str, body: bytes, content_type: str) -> requests.Response:
            headers = authorized | {"Content-Type": content_type}
            answer = session.post(served.url + path, body, headers=headers, timeout=20)
            seen[answer.status_code] += 1
            assert answer.status_code < 500, (path, body[:300], answer.text)
            assert answer.ok or answer.json()["status"] == answer.status_code
            return answer

        @given(documents | uploads)
        @settings(
            max_examples=CONTROL_TRIES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def send(request: tuple[str, bytes, str]) -> None:
            answer = sent(*request)
            if answer.ok and "taken" in answer.json():
                taken.update(each["sha256"] for each in answer.json()["taken"])

        send()
    print(f"{sum(seen.values())} requests: {dict(sorted(seen.items()))}; {len(taken)} pictures taken")
    assert sum(seen.values()) >= 0.8 * CONTROL_TRIES
    assert {sha for _, sha in set(Uploads().records().of) - before} == taken
    assert {200, 400, 415} <= set(seen)
    assert len(taken) > CASES // 250


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
