"""What stands beside the scores: it is whole or absent, and says what to do where it cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from raycls.data.sources.pictures import Picture
from raycls.errors import DataError
from raycls.scoring.ledger import Ledger, Listing, parquet_bytes
from tests.killed import killed_at
from tests.unit.scoring.conftest import MakeTask

PICTURES = [Picture("é,1.png", ("file", "\udce9,1.png", 12, 3)), Picture("x", ("missing", "gone"))]
LISTED = json.dumps(PICTURES).encode()
NOBODY = 65534


def test_a_part_is_listed_and_read_again(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert ledger.digest(3) == ""
    ledger.list_part(3, LISTED, "abc")
    assert ledger.digest(3) == "abc"
    assert ledger.pictures(3) == PICTURES
    with pytest.raises(DataError, match="is gone"):
        ledger.pictures(4)


def test_what_is_written_is_known_by_its_files(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert ledger.written() == set()
    ledger.write_part(0, b"x", "csv")
    ledger.write_part(12, b"y", "csv")
    assert ledger.written() == {0, 12}
    assert ledger.scores(12, "csv") == b"y"
    assert ledger.scores(1, "csv") is None
    # A copy that somebody keeps below the output is none of its parts.
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "part-00000003.csv").touch()
    (tmp_path / "part-4.csv").touch()
    assert ledger.written() == {0, 12}


def test_readers_of_a_folder_of_parquet_see_the_scores_alone(tmp_path: Path) -> None:
    """Also while a part is being written, or after a kill then."""
    ledger = Ledger(str(tmp_path))
    table = pa.table({"path": ["a", "b"]})

    def write() -> None:
        ledger.list_part(0, LISTED, "abc")
        ledger.write_part(0, parquet_bytes(table), "parquet")
        ledger.write_part(1, parquet_bytes(table), "parquet")

    step = 0
    while killed_at(step := step + 1, write):
        assert ds.dataset(tmp_path).count_rows() == 2 * len(ledger.written())
        shutil.rmtree(tmp_path / "_ledger", ignore_errors=True)
        for file in tmp_path.glob("part-*"):
            file.unlink()
    assert step > 6
    assert ds.dataset(tmp_path).count_rows() == 4


def test_records_of_the_plan_and_the_end(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos)
    ledger = Ledger(task.output)
    assert ledger.plan() == task.plan
    assert ledger.listing() is None
    listing = Listing(parts=2, pictures=3, fingerprint="f")
    ledger.end_listing(listing)
    assert ledger.listing() == listing
    (Path(task.output) / "_ledger" / "plan.json").write_text('{"model": 3}')
    with pytest.raises(DataError, match=r"plan.json is not a record of this raycls: .*Write to a new output"):
        ledger.plan()


def test_a_process_that_takes_the_place_of_a_dead_one_is_counted(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert [ledger.begun_again(5) for _ in range(3)] == [1, 2, 3]
    assert ledger.begun_again(6) == 1


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk of its own takes the right to mount one")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(full_disk: Path) -> None:
    ledger = Ledger(str(full_disk))
    ledger.write_part(0, b"x" * 20_000, "csv")
    with pytest.raises(
        DataError, match=r"cannot be written: No space left on device. What is written there stays"
    ):
        ledger.write_part(1, b"x" * 90_000, "csv")
    assert ledger.written() == {0}
    assert [file.name for file in full_disk.iterdir()] == ["part-00000000.csv"]


def test_a_folder_without_rights_is_told() -> None:
    if os.geteuid():
        pytest.skip("becoming another user takes root")
    # pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        os.seteuid(NOBODY)
        with pytest.raises(DataError, match=f"{folder} cannot be written: Permission denied"):
            Ledger(str(folder)).write_part(0, b"x", "csv")
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)
