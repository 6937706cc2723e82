"""`raycls score` on one cluster: rows for good and broken files, the answers of the server, a full disk."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import requests
from typer.testing import CliRunner

from raycls import registry, scoring
from raycls.cli import app
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.errors import DataError
from raycls.scoring.parts import PartSize
from raycls.training.filing import TrainingResult
from tests.predict import encoded
from tests.product import png_of

SMALL = PartSize(pictures=8)


@pytest.fixture
def digits(trained: TrainingResult) -> PackedDataset:
    return open_dataset("digits")


@pytest.fixture
def photos(digits: PackedDataset, tmp_path: Path) -> Path:
    """30 pictures of digits, and three files that are none."""
    for index, pixels in enumerate(np.array(digits.images("test")[:30])):
        file = tmp_path / "photos" / f"{index % 3}" / f"{index:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png_of(pixels))
    (tmp_path / "photos" / "empty.png").touch()
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    (tmp_path / "photos" / "0" / "cut.png").write_bytes(png_of(np.array(digits.images("test")[0]))[:70])
    return tmp_path / "photos"


def rows_of(output: Path, kind: str = "parquet") -> dict[str, dict[str, Any]]:
    rows = ds.dataset(output, format=kind).to_table().to_pylist()
    found = {str(row["path"]): row for row in rows}  # of CSV, a number where it looks like one
    assert len(found) == len(rows), "a picture has two rows"
    return found


def test_the_command_scores_a_folder_and_says_what_it_did(
    champion: TrainingResult, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    words = ["score", "digits", str(photos), "--output", str(output), "--top-k", "2", "--json"]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert champion.version
    assert document["version"] == champion.version.reference
    assert (document["pictures"], document["errors"], document["scored"]) == (33, 3, 33)
    assert document["pictures_per_s"] > 0
    rows = rows_of(output)
    assert len(rows) == 33
    assert {path for path, row in rows.items() if row["error"]} == {"empty.png", "notes.txt", "0/cut.png"}
    assert all(row["class"] in "0123456789" for row in rows.values() if not row["error"])
    assert all(len(row["top_k"]) == 2 for row in rows.values() if not row["error"])
    # The same command again finds it done.
    again = CliRunner().invoke(app, words)
    assert json.loads(again.stdout) | {"scored": 33} == document | {
        name: json.loads(again.stdout)[name] for name in ("seconds", "start_seconds", "pictures_per_s")
    }
    assert json.loads(again.stdout)["scored"] == 0


def test_a_picture_scores_as_over_http(
    post: Callable[..., requests.Response], trained: TrainingResult, tmp_path: Path
) -> None:
    forms = [
        *((mode, "PNG", None) for mode in ("RGB", "L", "LA", "I;16", "RGBA")),
        *(("RGB", "JPEG", turned) for turned in (None, 3, 6)),
        ("CMYK", "JPEG", None),
        ("P", "GIF", None),
        ("RGBA", "WEBP", None),
        ("1", "BMP", None),
    ]
    (tmp_path / "forms").mkdir()
    for number, (mode, kind, turned) in enumerate(forms):
        data = encoded(number, mode, kind, orientation=turned)
        (tmp_path / "forms" / f"{number}.{kind.lower()}").write_bytes(data)
    (tmp_path / "forms" / "13.tiff").write_bytes(encoded(13, "RGB", "TIFF"))
    (tmp_path / "forms" / "14.png").write_bytes(b"no picture")
    assert trained.version
    scoring.score(
        trained.version.reference, str(tmp_path / "forms"), str(tmp_path / "scores"), top_k=3, embedding=True
    )
    rows = rows_of(tmp_path / "scores")
    assert len(rows) == len(forms) + 2
    for path, row in rows.items():
        answer = post((tmp_path / "forms" / path).read_bytes(), query="?top_k=3&embedding=true")
        document = answer.json()
        if row["error"]:
            assert answer.status_code in (400, 415)
            assert row["error"] in document["detail"]
            continue
        assert (row["class"], row["class_index"]) == (document["class_name"], document["class_index"])
        assert row["model_version"] == document["model_version"]
        # A request has a batch of its own, and sums are rounded otherwise in batches of other sizes.
        assert row["confidence"] == pytest.approx(document["confidence"], abs=1e-3)
        assert [each["class_index"] for each in row["top_k"]] == [
            each["class_index"] for each in document["top_k"]
        ]
        largest = max(map(abs, document["embedding"]))
        assert row["embedding"] == pytest.approx(document["embedding"], abs=2e-3 * largest)


def test_in_a_batch_of_the_same_size_a_picture_scores_exactly_as_over_http(
    post: Callable[..., requests.Response], trained: TrainingResult, tmp_path: Path
) -> None:
    data = encoded(5, "RGB", "JPEG", size=(300, 200), orientation=6)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "picture.jpg").write_bytes(data)
    assert trained.version
    scoring.score(trained.version.reference, str(tmp_path / "one"), str(tmp_path / "scores"), top_k=10)
    (row,) = rows_of(tmp_path / "scores").values()
    document = post(data, query="?top_k=10").json()
    assert row["confidence"] == np.float32(document["confidence"])
    assert [each["confidence"] for each in row["top_k"]] == [
        np.float32(each["confidence"]) for each in document["top_k"]
    ]


def test_a_dataset_version_as_csv(champion: TrainingResult, digits: PackedDataset, tmp_path: Path) -> None:
    assert champion.version
    scored = scoring.score("digits", "digits@1", str(tmp_path / "scores"), format="csv")
    assert scored.pictures == sum(digits.info.counts.values())
    assert scored.errors == 0
    rows = rows_of(tmp_path / "scores", "csv")
    from raycls.data.manifest import read_rows

    table = read_rows(digits)
    of_test = [
        (rows[source]["class"], label)
        for source, label, split in zip(
            *(table[name].to_pylist() for name in ("source", "label", "split")), strict=True
        )
        if split == "test"
    ]
    accuracy = sum(str(found) == label for found, label in of_test) / len(of_test)
    assert accuracy == pytest.approx(champion.version.metrics["test_accuracy"], abs=0.01)


def test_it_goes_on_where_parts_are_written_and_keeps_the_version_of_the_start(
    champion: TrainingResult, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    scoring.score("digits", str(photos), str(output), part=SMALL)
    whole = rows_of(output)
    parts = sorted(output.glob("part-*"))
    assert len(parts) == 5
    kept = parts[1].stat().st_mtime_ns
    # As after a kill: two parts and the end are not there.
    for file in (parts[0], parts[3], output / "_ledger" / "totals.json"):
        file.unlink()
    scored = scoring.score("digits", str(photos), str(output), part=SMALL)
    assert (scored.pictures, scored.errors, scored.scored) == (33, 3, 16)
    assert parts[1].stat().st_mtime_ns == kept
    after = rows_of(output)
    assert set(after) == set(whole)
    assert all(after[path]["class"] == row["class"] for path, row in whole.items())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own takes the right to mount one")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_on_a_full_disk_it_ends_with_the_reason_and_goes_on_when_there_is_room(
    champion: TrainingResult, photos: Path, small_disk: Path
) -> None:
    output = str(small_disk / "scores")
    with pytest.raises(
        DataError, match=r"scores cannot be written: No space left on device. What is written"
    ):
        scoring.score("digits", str(photos), output, part=SMALL, embedding=True)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    scored = scoring.score("digits", str(photos), output, part=SMALL, embedding=True)
    assert (scored.pictures, scored.errors) == (33, 3)
    assert len(rows_of(Path(output))) == 33


def test_a_version_that_is_gone_is_told(champion: TrainingResult, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(registry.versions.UnknownModelError, match="has no version 99"):
        scoring.score("digits/99", str(photos), str(tmp_path / "scores"))
    assert not (tmp_path / "scores").exists()
