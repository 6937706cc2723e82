"""Datasets from and to a bucket: a real S3 server (moto's) on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow.fs import FileSystem

from raycls.cluster.environment import LOOPBACK
from raycls.data import sharing
from raycls.data.prepare import prepare
from raycls.data.versions import open_dataset

pytestmark = pytest.mark.usefixtures("home", "ray_session")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the query that leads to the server's bucket `pictures`: s3://pictures/PATH?QUERY."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    server = make_server(LOOPBACK, port, DomainDispatcherApplication(create_backend_app), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    query = f"endpoint_override={LOOPBACK}:{port}&scheme=http&allow_bucket_creation=true&region=us-east-1"
    yield query
    server.shutdown()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label, colour in (("red", (200, 20, 30)), ("blue", (10, 30, 220))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        random = np.random.default_rng(len(label))
        for index in range(12):
            pixels = np.clip(random.normal(colour, 20, (24, 30, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{index}.png")
    return tmp_path / "photos"


def test_a_folder_in_a_bucket_and_versions_pushed_and_pulled(
    bucket: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody's own credentials: moto accepts any.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    credentials = "test:test@"
    filesystem, root = FileSystem.from_uri(f"s3://{credentials}pictures/photos?{bucket}")
    filesystem.create_dir(root, recursive=True)
    for file in photos.rglob("*.png"):
        with filesystem.open_output_stream(f"{root}/{file.relative_to(photos)}") as out:
            out.write(file.read_bytes())
    here = prepare(str(photos), size=16, name="here")
    there = prepare(f"s3://{credentials}pictures/photos?{bucket}", size=16, name="there")
    assert there.info.fingerprint == here.info.fingerprint
    assert "test:test" not in there.info.source, "a description must not hold a secret"

    monkeypatch.setenv("RAYCLS_STORAGE", f"s3://{credentials}pictures/raycls?{bucket}")
    sharing.push(there)
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "another-machine"))
    pulled = open_dataset("there")
    pulled.verify()
    assert pulled.info == there.info
