"""The contents of pictures come in order, wherever they are, and within a limit of memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycls.data import readers
from raycls.data.encoded import EncodedImages
from raycls.data.listing import Where
from raycls.data.sources.pictures import find, pictures
from raycls.scoring import reading as module
from raycls.scoring.reading import Reading
from tests.datasets import colours, encoded_copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(40):
        (tmp_path / "many" / f"{index:02}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "many" / f"{index:02}.png").write_bytes(f"{index}".encode() * 1000)
    return tmp_path / "many"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_files_come_in_order_and_one_that_is_gone_is_an_error(folder: Path, form: str) -> None:
    source = find(form.format(folder))
    listed = list(pictures(source))
    (folder / "07.png").unlink()
    with Reading(source) as reading:
        found = list(reading.contents(listed))
    assert isinstance(found[7], OSError)
    assert [data for data in found if isinstance(data, bytes)] == [
        f"{index}".encode() * 1000 for index in range(40) if index != 7
    ]


def test_files_from_afar_are_read_several_at_a_time_and_not_all_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, begun = 0, 0, 0
    lock = threading.Lock()

    def slow(wheres: list[Where]) -> object:
        nonlocal running, most, begun
        with lock:
            running, begun = running + 1, begun + 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return iter([(wheres[0], b"x")])

    monkeypatch.setattr(module, "read_all", slow)
    monkeypatch.setattr(module, "AHEAD", 8)
    source = find(f"file://{folder}")
    with Reading(source) as reading:
        contents = reading.contents(list(pictures(source)))
        next(contents)
        assert begun <= 9
        assert len(list(contents)) == 39
    assert 2 < most <= 8
    most = 0
    monkeypatch.setattr(module, "AHEAD_BYTES", 4500)  # two files of 2,000 bytes
    with Reading(source) as reading:
        list(reading.contents(list(pictures(source))[10:]))
    assert most <= 2


def test_large_files_of_unknown_size_are_few_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of URIs says no sizes."""
    waiting, most = 0, 0
    lock = threading.Lock()

    def large(wheres: list[Where]) -> object:
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        return iter([(wheres[0], b"x" * 1000)])

    monkeypatch.setattr(module, "read_all", large)
    monkeypatch.setattr(module, "AHEAD_BYTES", 4000)
    monkeypatch.setattr(module, "UNKNOWN", 1000)
    rows = [f"file://{folder}/{index:02}.png" for index in range(40)]
    pq.write_table(pa.table({"path": rows}), folder / "rows.parquet")
    source = find(str(folder / "rows.parquet"))
    with Reading(source) as reading:
        for content in reading.contents(list(pictures(source))):
            assert content == b"x" * 1000
            with lock:
                waiting -= 1
    assert 2 < most <= 4


def test_small_files_of_unknown_size_are_many_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read counts with its length, so the first guess holds nobody up for long."""
    begun = 0
    monkeypatch.setattr(module, "AHEAD_BYTES", 4 * module.UNKNOWN)
    monkeypatch.setattr(module, "THREADS", 2)
    rows = [f"file://{folder}/{index:02}.png" for index in range(40)]
    pq.write_table(pa.table({"path": rows}), folder / "rows.parquet")
    source = find(str(folder / "rows.parquet"))
    whole = module.read_all

    def counting(wheres: list[Where]) -> object:
        nonlocal begun
        begun += 1
        return whole(wheres)

    monkeypatch.setattr(module, "read_all", counting)
    with Reading(source) as reading:
        contents = reading.contents(list(pictures(source)))
        for _ in range(6):
            next(contents)
        time.sleep(0.2)
        next(contents)
        assert begun >= 30
        assert len(list(contents)) == 33


@pytest.mark.usefixtures("home")
def test_an_encoded_version_is_read_in_batches_with_the_pixels_of_a_packed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = colours(8, {"train": 150, "val": 70, "test": 3})
    encoded_copy(packed, "encoded")
    asked: list[int] = []
    plain = EncodedImages.__getitem__

    def counting(self: EncodedImages, rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return plain(self, rows)

    monkeypatch.setattr(EncodedImages, "__getitem__", counting)
    found: dict[str, list[np.ndarray]] = {}
    for name in ("colours", "encoded"):
        source = find(name)
        with Reading(source) as reading:
            found[name] = list(reading.contents(list(pictures(source))))
    assert asked == [64, 64, 22, 64, 6, 3]
    assert len(found["encoded"]) == 223
    # Those of `train` may be stored with loss.
    assert np.array_equal(found["encoded"][150:], found["colours"][150:])


def test_the_rows_of_a_table_are_read_once_through(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader for each row would read the row group from its start as often."""
    pq.write_table(
        pa.table({"bytes": [b"%d" % row for row in range(50)]}), folder / "t.parquet", row_group_size=20
    )
    opened = 0
    whole = readers.READERS["parquet"]

    def counting(container: Where, members: list[Where]) -> object:
        nonlocal opened
        opened += 1
        return whole(container, members)

    monkeypatch.setitem(readers.READERS, "parquet", counting)
    source = find(str(folder / "t.parquet"))
    with Reading(source) as reading:
        assert list(reading.contents(list(pictures(source)))) == [b"%d" % row for row in range(50)]
    assert opened == 3


def broken_by_others_columns(file: Path) -> None:
    pq.write_table(pa.table({"other": ["a", "b"]}), file)


def broken_by_fewer_rows(file: Path) -> None:
    pq.write_table(pa.table({"bytes": [b"a"]}), file)


def broken_by_no_row_group(file: Path) -> None:
    pq.write_table(pa.table({"bytes": [b"a", b"b", b"c"][:0]}), file)


def broken_by_text(file: Path) -> None:
    file.write_text("no table any more")


def broken_in_the_middle(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(40) + content[44:])


@pytest.mark.parametrize(
    "harm",
    [
        broken_by_others_columns,
        broken_by_fewer_rows,
        broken_by_no_row_group,
        broken_by_text,
        broken_in_the_middle,
    ],
)
def test_a_table_that_breaks_is_an_error_in_its_own_rows_alone(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    values = [bytes([row]) * 50 for row in range(3)]
    for name in ("a", "b", "c"):
        pq.write_table(pa.table({"bytes": values}), tmp_path / f"{name}.parquet")
    (tmp_path / "d.png").write_bytes(b"d")
    source = find(str(tmp_path))
    listed = list(pictures(source))
    harm(tmp_path / "b.parquet")
    with Reading(source) as reading:
        found = list(reading.contents(listed))
    of = {picture.name: data for picture, data in zip(listed, found, strict=True)}
    assert isinstance(of["b.parquet, row 2"], OSError)
    assert [data for name, data in of.items() if not name.startswith("b.")] == [*values, *values, b"d"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_text_table_that_breaks_is_an_error_in_its_rows(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"t.{kind}"
    rows = ["YQ==", "é", "YQ=="]
    file.write_text(
        "\n".join(["bytes", *rows] if kind == "csv" else [f'{{"bytes": "{row}"}}' for row in rows])
    )
    source = find(str(file))
    listed = list(pictures(source))
    with Reading(source) as reading:
        first, second, third = reading.contents(listed)
        assert (first, third) == (b"a", b"a")
        assert isinstance(second, OSError)
        for content in ("", "other\n1", '{"other": 1}', '{"bytes": 1}\n{"bytes"', "bytes\nYQ=="):
            file.write_text(content)
            assert isinstance(list(reading.contents(listed))[2], OSError)


def test_a_table_that_is_gone_is_the_reason_of_all_its_pictures(folder: Path) -> None:
    pq.write_table(pa.table({"bytes": [b"a", b"b"]}), folder / "t.parquet")
    source = find(str(folder))
    listed = list(pictures(source))
    (folder / "t.parquet").unlink()
    with Reading(source) as reading:
        found = list(reading.contents(listed))
    assert len(found) == 42
    assert all(isinstance(data, OSError) for data in found[40:])
    assert all(isinstance(data, bytes) for data in found[:40])
