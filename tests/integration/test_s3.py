"""Datasets, uploads and checkpoints in a bucket: a real S3 server (moto's) on loopback."""

from __future__ import annotations

import gzip
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image
from pyarrow.fs import FileSelector, FileSystem, copy_files

from raycls import scoring
from raycls.cluster.environment import LOOPBACK
from raycls.config import override
from raycls.data import shards, sharing
from raycls.data.packed import PackedDataset, is_shard
from raycls.data.place import place_at
from raycls.data.prepare import prepare
from raycls.data.versions import open_dataset
from raycls.lifecycle import log
from raycls.lifecycle.intake import add
from raycls.lifecycle.next_version import add_uploads
from raycls.lifecycle.review import accept, purge
from raycls.lifecycle.uploads import Uploads
from raycls.models.card import CARD, WEIGHTS
from raycls.scoring.parts import PartSize
from raycls.training.checkpoints import CheckpointStore, epoch_directory
from raycls.training.filing import TrainingResult
from raycls.training.loop import Snapshot, fit
from raycls.training.presets import preset
from raycls.training.seal import SEAL, STATE
from raycls.training.trainer import train
from tests.unit.lifecycle.pictures import digest, png

pytestmark = pytest.mark.usefixtures("home", "ray_session")


SENT: Counter[str] = Counter()  # bytes that the bucket has sent of files, by the file's name


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the query that leads to the server's bucket `pictures`: s3://pictures/PATH?QUERY."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    application = DomainDispatcherApplication(create_backend_app)

    def counting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for piece in application(environ, start_response):
            if environ["REQUEST_METHOD"] == "GET":
                SENT[environ["PATH_INFO"].rpartition("/")[2]] += len(piece)
            yield piece

    server = make_server(LOOPBACK, port, counting, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    query = f"endpoint_override={LOOPBACK}:{port}&scheme=http&allow_bucket_creation=true&region=us-east-1"
    FileSystem.from_uri(f"s3://test:test@pictures?{query}")[0].create_dir("pictures")
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


def test_uploads_in_a_bucket_are_reviewed_and_become_part_of_a_dataset(
    bucket: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYCLS_STORAGE", f"s3://test:test@pictures/uploads-of-a-test?{bucket}")
    monkeypatch.setattr(log, "MANY", 3)  # so that files are merged
    prepare(str(photos), size=16, name="colours")
    uploads = Uploads()
    shas = [digest(png(seed)) for seed in range(6)]
    for seed in range(6):
        answer = add(uploads, "colours", [("x", png(seed))], label="red", sender="ann")
        assert [each.sha256 for each in answer.taken] == [shas[seed]]
    assert len(add(Uploads(), "colours", [("x", png(0))], label="red", sender="bob").known) == 1
    accept(uploads, "colours", shas[:5], by="eve")
    records = Uploads().of("colours")
    assert [record.state for record in records] == ["accepted"] * 5 + ["waiting"]
    assert all(uploads.picture(record.sha256) == png(seed) for seed, record in enumerate(records))
    purge(uploads, shas[0], by="eve")
    assert not Uploads().has(shas[0])
    added = add_uploads("colours", trusted=["ann"])
    assert (added.dataset.info.reference, added.count) == ("colours@2", 4)
    assert add_uploads("colours", trusted=["ann"]).dataset.info.reference == "colours@2"
    assert "test:test" not in str(added)


def test_the_checkpoints_of_a_run_are_known_without_their_weights(
    bucket: str, photos: Path, tmp_path: Path
) -> None:
    shades = prepare(str(photos), size=16, name="shades")
    store = CheckpointStore(f"s3://test:test@pictures/runs?{bucket}", "run")
    store.prepare()
    config = override(preset("smoke", shades.info), ["epochs=3", "batch_size=8"])

    def keep(metrics: dict[str, float], snapshot: Snapshot) -> None:
        name = epoch_directory(int(metrics["epoch"]))
        snapshot.save(tmp_path / name)
        copy_files(
            str(tmp_path / name), f"{store.path}/attempt-1/{name}", destination_filesystem=store.filesystem
        )

    fit(config, shades, on_epoch=keep)
    SENT.clear()
    assert [saved.epoch for saved in store.checkpoints()] == [1, 2, 3]
    assert [metrics["epoch"] for metrics in store.history()] == [1, 2, 3]
    store.tidy("val_loss")
    last = store.last()
    assert last is not None
    assert set(SENT) & {WEIGHTS, STATE, CARD} == set()
    assert 0 < SENT[SEAL] < 50_000
    with last.directory() as folder:
        weights = (folder / WEIGHTS).stat().st_size
    assert SENT[WEIGHTS] == weights, "once, when they are wanted"
    store.filesystem.delete_file(f"{last.path}/{STATE}")
    before = store.last()
    assert before is None or before.epoch < 3


def test_pictures_in_a_bucket_are_scored_into_a_bucket(
    bucket: str, photos: Path, trained: TrainingResult, digits_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYCLS_HOME", str(digits_home))
    filesystem, root = FileSystem.from_uri(f"s3://test:test@pictures/to-score?{bucket}")
    names = [str(file.relative_to(photos)) for file in photos.rglob("*.png")] + [
        "a b/100% ü.png",
        "empty.png",
    ]
    for name in names:
        filesystem.create_dir(f"{root}/{name}".rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(f"{root}/{name}") as out:
            file = photos / name
            out.write(
                b"" if name == "empty.png" else (file if file.exists() else photos / "red/0.png").read_bytes()
            )
    assert trained.version
    arguments = (
        trained.version.reference,
        f"s3://test:test@pictures/to-score/?{bucket}",
        f"s3://test:test@pictures/scores?{bucket}",
    )
    scored = scoring.score(*arguments, part=PartSize(pictures=10))
    assert (scored.pictures, scored.errors) == (26, 1)
    assert "test:test" not in str(scored)
    rows = ds.dataset("pictures/scores", filesystem=filesystem).to_table().to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(names)
    assert [row["path"] for row in rows if row["error"]] == ["empty.png"]
    here = scoring.score(arguments[0], str(photos), str(photos.with_name("scores")))
    of_here = {row["path"]: row for row in ds.dataset(here.output).to_table().to_pylist()}
    for row in rows:
        if row["path"] in of_here:
            assert row["sha256"] == of_here[row["path"]]["sha256"]
            assert row["confidence"] == pytest.approx(of_here[row["path"]]["confidence"], abs=1e-3)
    # No file in the bucket tells the password.
    for entry in filesystem.get_file_info(FileSelector("pictures/scores", recursive=True)):
        if entry.is_file:
            content = filesystem.open_input_stream(entry.path, compression=None).read()
            text = gzip.decompress(content) if entry.path.endswith(".gz") else content
            assert b"test:test" not in text, entry.path
    # A part that was not written is scored by the same call again, and no other.
    for name in ("part-00000001.parquet", "_ledger/totals.json"):
        filesystem.delete_file(f"pictures/scores/{name}")
    assert scoring.score(*arguments).scored == 10


def test_what_writes_first_makes_the_bucket_where_it_may(bucket: str) -> None:
    """`raycls up` may be the first that writes to a new storage path."""
    place = place_at(f"s3://test:test@fresh/store?{bucket}")
    place.put("serving/state.json", b"{}")
    assert place.get("serving/state.json") == b"{}"
    forbidden = place_at(f"s3://test:test@another/store?{bucket.replace('allow_bucket_creation=true&', '')}")
    with pytest.raises(OSError, match="allow_bucket_creation"):
        forbidden.put("serving/state.json", b"{}")


def test_a_file_that_is_replaced_while_it_is_read_is_whole(bucket: str) -> None:
    """Half of a record was read where it grew between two requests of pyarrow's."""
    place = place_at(f"s3://test:test@busy/store?{bucket}")
    contents = [bytes([48 + number]) * (10 + 3000 * number) for number in range(10)]
    place.put("record.json", contents[0])
    ended = threading.Event()

    def replace() -> None:
        for number in range(300):
            place.put("record.json", contents[number % len(contents)])
        ended.set()

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        while not ended.is_set():
            assert place.get("record.json") in contents
    finally:
        writer.join()


def test_a_training_reads_shards_where_they_are(
    bucket: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers whose machine has the description alone: each byte comes once an epoch, and nothing stays."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 2_000)
    monkeypatch.setenv("RAYCLS_STORAGE", f"s3://test:test@pictures/large?{bucket}")
    made = prepare(str(photos), size=16, name="large", store="encoded")
    sizes = {split: _shard_bytes(made, split) for split in ("train", "val", "test")}
    sharing.push(made)
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "another-machine"))
    dataset = open_dataset("large")
    assert set(dataset.absent()) == {file for file in made.info.sha256 if is_shard(file)}
    assert np.array_equal(dataset.images("train")[:], made.images("train")[:])
    config = override(preset("smoke", dataset.info, "cnn"), ["epochs=3", "batch_size=4"])
    SENT.clear()
    fit(config, dataset, on_epoch=lambda metrics, snapshot: None)
    read = sum(count for name, count in SENT.items() if is_shard(name))
    whole = sizes["train"] + sizes["val"]
    assert 2 * whole < read < 4 * whole, "three epochs, and the footers, which here are whole files"
    result = train("large", config, workers=2)
    assert result.metrics["test_accuracy"] >= 0.5
    assert set(dataset.absent()) == {file for file in made.info.sha256 if is_shard(file)}


def _shard_bytes(dataset: PackedDataset, split: str) -> int:
    return sum(file.stat().st_size for file in (dataset.path / split).glob("shard-*"))
