"""A part: read, decoded as serving does, classified and written, with a row for what cannot be read."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycls.data import readers
from raycls.data.listing import Where
from raycls.data.packed import PackedDataset
from raycls.data.readers import Data
from raycls.engines.predictor import Predictor
from raycls.engines.rejection import Rejection
from raycls.errors import ClusterError
from raycls.scoring import scorer as scoring
from raycls.scoring.ledger import Ledger
from raycls.scoring.listing import list_parts
from raycls.scoring.parts import PartSize
from raycls.scoring.rows import Counts
from raycls.scoring.scorer import Scorer
from raycls.serving.settings import FORMATS
from tests.predict import encoded
from tests.unit.scoring.conftest import MakeTask, score_all, scores_of
from tests.unit.scoring.test_ledger import NOBODY


def test_a_folder_has_a_row_for_each_file_with_the_predictors_answer(
    make_task: MakeTask, photos: Path, directory: Path
) -> None:
    task = make_task(photos, size=PartSize(pictures=20), embedding=True)
    assert score_all(task) == Counts(34, 4, 0)
    rows = {row["path"]: row for row in scores_of(task)}
    assert len(rows) == 34
    predictor = Predictor.load(directory, engine="reference")
    for path, row in rows.items():
        if row["error"]:
            continue
        data = (photos / path).read_bytes()
        (expected,) = predictor.predict([data])
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["class"], row["class_index"]) == (expected.class_name, expected.class_index)
        assert row["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
        assert [each["class_index"] for each in row["top_k"]] == [
            each["class_index"] for each in expected.as_json(3)["top_k"]
        ]
        assert row["embedding"] == pytest.approx(expected.embedding.tolist(), rel=1e-3, abs=1e-4)
        assert row["model_version"] == "7"


def test_what_cannot_be_read_is_a_row_that_says_why(
    make_task: MakeTask, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_FILE_BYTES", 400_000)
    (photos / "huge.png").write_bytes(bytes(500_000))
    Image.new("RGB", (9000, 6000)).save(photos / "wide.png")  # 54 million pixels in 0.2 MB
    Image.new("RGB", (9, 9)).save(photos / "format.tiff")
    os.mkfifo(photos / "fifo.png")
    task = make_task(photos)
    score_all(task)
    errors = {row["path"]: row["error"] for row in scores_of(task) if row["error"]}
    assert errors.pop("1/cut.png").startswith("the image is truncated or damaged")
    assert errors.pop("wide.png").startswith("the image has 9000×6000 pixels")
    assert errors.pop("huge.png").startswith("larger than")
    assert errors == {
        "0/empty.png": "the image is empty: 0 bytes",
        "0/notes.txt": "the bytes are not an image of a known format",
        "1/gone.png": "No such file or directory",
        "fifo.png": "not a regular file",
        "format.tiff": "the bytes are not an image of a known format",
    }


def test_names_and_reasons_that_are_no_utf8_are_written(
    make_task: MakeTask, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "cafe").mkdir()
    pq.write_table(pa.table({"bytes": [b"no picture"]}), photos / "cafe" / "bytes.parquet")
    pq.write_table(pa.table({"path": ["nowhere.png", None]}), photos / "cafe" / "paths.parquet")
    (photos / "cafe" / "bytes.parquet").rename(photos / "cafe" / os.fsdecode(b"\xe9.parquet"))
    (photos / "cafe").rename(photos / os.fsdecode(b"caf\xe9"))
    task = make_task(photos)
    monkeypatch.setattr(readers, "READERS", {**readers.READERS, "parquet": _refuse})
    score_all(task)
    rows = {row["path"]: row["error"] for row in scores_of(task)}
    assert rows["caf\\xe9/\\xe9.parquet, row 0"].endswith("caf\\xe9/\\xe9.parquet: broken")
    assert rows["caf\\xe9/paths.parquet, row 1"] == "the row has no path"
    assert rows["nowhere.png"] == "No such file or directory"


def _refuse(container: Where, members: list[Where]) -> Iterator[Data]:
    raise OSError("broken")
    yield from ()


def test_a_file_and_a_folder_without_rights_are_rows(make_task: MakeTask, photos: Path) -> None:
    if os.geteuid():
        pytest.skip("becoming another user takes root")
    # pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(photos / "2", folder / "photos")
    (folder / "photos" / "20.png").chmod(0)
    (folder / "photos" / "closed").mkdir(mode=0)
    task = replace(make_task(folder / "photos"), output=str(folder / "scores"))
    (folder / "scores").mkdir()
    shutil.chown(folder / "scores", NOBODY)
    scorer = Scorer(task)
    try:
        os.seteuid(NOBODY)
        Ledger(task.output).begin(task.plan)
        assert list(list_parts(task.source, Ledger(task.output))) == [0]
        assert scorer.score(0) == Counts(11, 2, 0)
    finally:
        os.seteuid(0)
    errors = {row["path"]: row["error"] for row in scores_of(task) if row["error"]}
    shutil.rmtree(folder)
    assert errors == {"20.png": "Permission denied", "closed": "Permission denied"}


def test_a_table_of_paths_and_one_of_bytes_score_as_the_folder_does(
    make_task: MakeTask, photos: Path, table: Path
) -> None:
    task = make_task(photos)
    score_all(task)
    of_folder = {row["path"]: row for row in scores_of(task)}
    task = replace(make_task(table), output=f"{task.output}-table")
    Ledger(task.output).begin(task.plan)
    assert score_all(task) == Counts(4, 2, 0)
    rows = scores_of(task)
    for row, path in zip(rows, ("0/00.png", "0/01.png"), strict=False):
        expected = of_folder[path]
        assert (row["sha256"], row["class"]) == (expected["sha256"], expected["class"])
        # Not bit by bit: sums are rounded otherwise in a batch of two.
        assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)
    assert [row["error"] for row in rows][2:] == ["No such file or directory", "the row has no path"]

    held = [(photos / f"{index // 10}" / f"{index:02}.png").read_bytes() for index in range(30)]
    pq.write_table(pa.table({"bytes": [*held, None]}), photos.with_name("bytes.parquet"), row_group_size=8)
    task = replace(
        make_task(photos.with_name("bytes.parquet"), size=PartSize(pictures=5)), output=f"{task.output}-b"
    )
    Ledger(task.output).begin(task.plan)
    assert score_all(task) == Counts(31, 1, 0)
    for index, row in enumerate(scores_of(task)[:30]):
        expected = of_folder[f"{index // 10}/{index:02}.png"]
        assert row["path"] == f"bytes.parquet, row {index}"
        assert (row["sha256"], row["class"]) == (expected["sha256"], expected["class"])
        assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)


def test_a_dataset_version_scores_its_pixels(
    make_task: MakeTask, digits: PackedDataset, directory: Path
) -> None:
    task = make_task("digits")
    counted = score_all(task)
    assert counted == Counts(sum(digits.info.counts.values()), 0, 0)
    rows = scores_of(task)
    first = digits.info.counts["train"]
    predictor = Predictor.load(directory, engine="reference")
    expected = predictor.probabilities(np.array(digits.images("val")[:50])).argmax(1)
    assert [row["class_index"] for row in rows[first : first + 50]] == expected.tolist()
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_the_network_is_fed_the_bytes_that_serving_feeds_it(
    make_task: MakeTask, tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Inference.decode` is what a replica calls for each picture of a request."""
    forms = [
        ("RGB", "JPEG", 6),
        ("LA", "PNG", None),
        ("P", "GIF", None),
        ("CMYK", "JPEG", None),
        ("I;16", "PNG", 3),
    ]
    (tmp_path / "forms").mkdir()
    for number, (mode, kind, turned) in enumerate(forms):
        (tmp_path / "forms" / f"{number}").write_bytes(encoded(number, mode, kind, orientation=turned))
    fed: list[np.ndarray] = []
    run = Predictor.outputs
    monkeypatch.setattr(Predictor, "outputs", lambda self, batch: fed.append(batch) or run(self, batch))
    score_all(make_task(tmp_path / "forms"))
    predictor = Predictor.load(directory, engine="reference")
    for number in range(len(forms)):
        data = (tmp_path / "forms" / f"{number}").read_bytes()
        served = predictor.read_with_size(data, max_pixels=50_000_000, formats=FORMATS).pixels
        assert np.array_equal(fed[0][number], served)


def test_rejected_answers_are_those_below_the_plans_threshold(make_task: MakeTask, photos: Path) -> None:
    rejection = Rejection(
        precision=0.9, threshold=0.7, engine="reference", dataset="digits", images=9, answered=8, right=8
    )
    task = make_task(photos, rejection=rejection)
    counted = score_all(task)
    rows = [row for row in scores_of(task) if not row["error"]]
    assert [row["rejected"] for row in rows] == [row["confidence"] < 0.7 for row in rows]
    assert 0 < counted.rejected == sum(row["rejected"] for row in rows) < 30


def test_a_process_in_place_of_a_dead_one_does_not_score_what_is_written(
    make_task: MakeTask, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(photos)
    counted = score_all(task)
    monkeypatch.setattr(Scorer, "_add", None)  # so that to score fails
    assert Scorer(task, again=True).score(0) == counted


def test_a_part_that_ends_process_after_process_is_given_up(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos)
    list(list_parts(task.source, Ledger(task.output)))
    for _ in range(scoring.MOST_AGAIN):
        Ledger(task.output).begun_again(0)
    with pytest.raises(ClusterError, match=r"part 0 ended 4 processes .*listing/00000000.gz names them"):
        Scorer(task, again=True).score(0)
