"""The figures of training from shards: measured on digits, and their page."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import streaming_formats, streaming_training
from harness.results_page import document, markdown

from benchmarks.streaming_data import HEAD, SECTIONS
from raycls.data.packed import PackedDataset
from raycls.data.prepare import prepare
from raycls.errors import BenchmarkError
from tests.datasets import encoded_copy
from tests.unit.lifecycle.pictures import png


@pytest.fixture
def shards(home: Path) -> PackedDataset:
    return encoded_copy(prepare("digits"), "shards")


def test_formats_differ_in_bytes_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming_formats, "SIDES", (32,))
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(png(seed, 64))
    rows = {row["format"]: row for row in streaming_formats.measure(str(tmp_path), 3)}
    best, smallest = rows["JPEG 95, 4:4:4 (train from 96 pixels)"], rows["JPEG 90, 4:2:0"]
    assert 0 < best["error"] < smallest["error"]
    assert smallest["share"] < best["share"] < 1
    assert rows["WebP, lossless (all others)"]["error"] == rows["PNG, level 1"]["error"] == 0
    with pytest.raises(BenchmarkError, match="has no JPEG or PNG"):
        streaming_formats.measure(str(tmp_path / "empty"), 3)


def test_speed_and_accuracy_are_measured_in_turns(shards: PackedDataset) -> None:
    given = {"network": "cnn", "batch_size": 16, "steps": 2, "rounds": 2}
    speed = streaming_training.speed("digits", "shards", **given)
    assert len(speed) == 2
    assert all(
        row["packed_per_s"] > 0 < row["encoded_per_s"] and row["encoded_first_s"] < 10 for row in speed
    )
    learned = {"network": "cnn", "preset": "smoke", "seeds": [0, 1]}
    accuracy = streaming_training.accuracy("digits", "shards", **learned)
    assert [row["seed"] for row in accuracy] == [0, 1]
    page = markdown(
        {"speed": document("speed", given, speed), "accuracy": document("accuracy", learned, accuracy)},
        HEAD,
        SECTIONS,
    )
    assert "| cnn, batch 16 |" in page
    assert "| smoke, cnn, n=2 |" in page


def test_two_versions_that_differ_are_refused(shards: PackedDataset) -> None:
    with pytest.raises(BenchmarkError, match=r"digits@1 is packed: prepare it with --store encoded"):
        streaming_training.accuracy("digits", "digits", None, "smoke", [0])
    with pytest.raises(BenchmarkError, match="lower --steps"):
        streaming_training.speed("digits", "shards", "cnn", 16, 5000, 1)


def test_the_page_of_ray_of_the_bucket_and_of_arrays_or_shards() -> None:
    ray = [{"raycls_first_s": 0.5, "raycls_per_s": 900.0, "ray_first_s": 9.0, "ray_per_s": 700.0}]
    bucket = [
        {"memory_mb": 1000, "dataset_mb": 3000, "images": 30_000, "times": 3.0, "peak_mb": 990,
         "read_share": 1.012, "first_s": 2.5, "per_s": 400.0}
    ]  # fmt: skip
    threshold = [{"share": 0.5, "images": 5_224, "packed_per_s": 9000.0, "encoded_per_s": 1200.0}]
    page = markdown(
        {
            "ray": document("ray", {}, ray),
            "bucket": document("bucket", {}, bucket),
            "threshold": document("threshold", {"memory_mb": 1500}, threshold),
        },
        HEAD,
        SECTIONS,
    )
    assert "| streaming_split | 9.00 s | 700 |" in page
    assert "| bytes read in an epoch, of the dataset's (goal 1.05) | 1.012 |" in page
    assert "| 0.50 × the memory, 5,224 images | 9,000 | 1,200 |" in page
