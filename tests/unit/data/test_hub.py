"""A dataset of the Hugging Face hub, by the hub's own client, from a server that answers as the hub does."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycls.data.readers import read_all
from raycls.data.sources import Choice, existing, list_source
from raycls.errors import UsageError

FILE = "data/train-00000-of-00001.parquet"
PIXELS = [f"image {index}".encode() for index in range(6)]


def parquet() -> bytes:
    """Return the table that `datasets` writes: records with bytes, and numbers whose names are in the metadata."""
    images = [{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(PIXELS)]
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": [index % 2 for index in range(len(PIXELS))]})
    buffer = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), buffer
    )
    return buffer.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve the dataset `owner/pets`, and `owner/scripted`, which has no Parquet files."""
    data, commit = parquet(), "0" * 40

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = next((name for name in ("pets", "scripted") if f"owner/{name}" in path), None)
            if name is None or "refs" in path:
                self._answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
            elif "/tree/" in path:
                file = FILE if name == "pets" else "pets.py"
                self._json([{"type": "file", "oid": commit, "size": len(data), "path": file}])
            elif "/resolve/" in path:
                self._answer(data, 200, {"ETag": '"x"', "X-Repo-Commit": commit})
            else:
                self._json({"id": f"owner/{name}", "sha": commit, "siblings": [], "tags": []})

        do_HEAD = do_GET

        def _json(self, document: object) -> None:
            self._answer(json.dumps(document).encode(), 200, {"Content-Type": "application/json"})

        def _answer(self, body: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hffs = pytest.importorskip("huggingface_hub.hf_file_system")
    # The client reads the environment once, when it is imported.
    constants, address = "huggingface_hub.constants", f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(f"{constants}.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    hffs.HfFileSystem.clear_instance_cache()
    yield
    hffs.HfFileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_dataset_of_the_hub_is_listed_and_read(hub: None, tmp_path: Path) -> None:
    listing = list_source(existing("hf:owner/pets"), Choice())
    assert listing.labels == ["cat", "dog"] * 3
    assert set(listing.splits) == {"train"}
    assert [data for _, data in read_all(listing.wheres)] == PIXELS


@pytest.mark.parametrize(
    ("name", "reason"), [("scripted", "it has no Parquet files"), ("none", "there is none of this name")]
)
def test_what_the_hub_does_not_give_is_told(hub: None, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"the hub does not give the dataset owner/{name}: {reason}"):
        existing(f"hf:owner/{name}")
