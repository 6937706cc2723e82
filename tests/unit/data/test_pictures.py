"""The pictures of a source, one after another: folders, tables, dataset versions."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycls.data.files import files_below, files_in_order
from raycls.data.readers import read_all
from raycls.data.sources.pictures import MISSING, PACKED, find, pictures, whole
from raycls.errors import DataError, UnknownDatasetError, UsageError
from tests.datasets import colours

FILES = ("b/2.jpg", "b/10.jpg", "a.png", "b.png", "c d/100%.gif", "b/x/1.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    for litter in (".hidden", "b/Thumbs.db"):
        (tmp_path / "photos" / litter).write_text("litter")
    return tmp_path / "photos"


def contents(source: str) -> dict[str, bytes]:
    """What the pictures of a source hold, by their names, read as a scorer does."""
    found = find(source)
    held: dict[str, bytes] = {}
    for name, where in pictures(found):
        if where[0] != MISSING:
            ((_, data),) = read_all([whole(where, found)])
            assert isinstance(data, bytes), data
            held[name] = data
    return held


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_every_file_of_a_folder_is_a_picture_always_in_the_same_order(folder: Path, form: str) -> None:
    source = form.format(folder)
    found = [name for name, _ in pictures(find(source))]
    assert sorted(found) == sorted(FILES)
    assert found == [name for name, _ in pictures(find(source))]
    assert contents(source) == {name: name.encode() for name in FILES}
    assert find(source).is_local == (form == "{}")


def test_places_hold_no_password_and_nothing_above_the_source(folder: Path) -> None:
    for source in (str(folder), f"file://{folder}"):
        assert not [where for _, where in pictures(find(source)) if str(folder) in str(where)]


def test_a_bucket_is_listed_folder_by_folder(folder: Path) -> None:
    in_order = list(files_in_order(f"file://{folder}"))
    assert sorted(in_order) == sorted(files_below(f"file://{folder}"))
    assert [path for path, _, _ in in_order][:3] == [".hidden", "a.png", "b.png"]


def test_what_cannot_be_a_picture_is_told_and_not_left_out(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "lost.jpg").symlink_to("nowhere")
    (folder / "up").symlink_to(folder)
    (folder / "broken.parquet").write_text("no table")
    missing = {name: where[1] for name, where in pictures(find(str(folder))) if where[0] == MISSING}
    assert missing.pop("broken.parquet")
    assert missing == {
        "fifo": "not a regular file",
        "lost.jpg": "No such file or directory",
        "up": "a link to a folder above",
    }


def test_a_table_of_paths(folder: Path) -> None:
    names = ["photos/a.png", str(folder / "b/2.jpg"), f"file://{folder}/b/10.jpg", None]
    for kind in ("parquet", "csv", "jsonl"):
        file = folder.with_name(f"list.{kind}")
        if kind == "parquet":
            pq.write_table(pa.table({"path": names, "label": list("abcd")}), file)
        elif kind == "csv":
            file.write_text("label,path\n" + "".join(f"a,{name or ''}\n" for name in names))
        else:
            file.write_text("".join(f'{{"path": "{name or ""}"}}\n' for name in names))
        assert contents(str(file)) == {names[0]: b"a.png", names[1]: b"b/2.jpg", names[2]: b"b/10.jpg"}
        assert list(pictures(find(str(file))))[3] == (f"list.{kind}, row 3", (MISSING, "the row has no path"))


def test_a_table_of_bytes(folder: Path) -> None:
    values = [b"one", b"two", b"three"]
    pq.write_table(pa.table({"bytes": values}), folder / "some table.parquet", row_group_size=2)
    lines = ["bytes", *(base64.b64encode(value).decode() for value in values)]
    (folder.parent / "text.csv").write_text("\n".join(lines))
    held = {f"some table.parquet, row {row}": value for row, value in enumerate(values)}
    assert contents(str(folder / "some table.parquet")) == held
    assert contents(f"file://{folder}/some%20table.parquet") == held
    assert contents(str(folder.parent / "text.csv")) == {
        f"text.csv, row {row}": value for row, value in enumerate(values)
    }
    # A table in a folder is its pictures.
    assert contents(str(folder)) == held | {name: name.encode() for name in FILES}


def test_a_table_in_a_folder_names_pictures_beside_itself(folder: Path) -> None:
    pq.write_table(pa.table({"path": ["2.jpg", str(folder / "a.png")]}), folder / "b" / "two.parquet")
    assert contents(str(folder))["2.jpg"] == b"b/2.jpg"


def test_a_table_without_pictures_is_refused_by_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file;label\n1.jpg;cat")
    with pytest.raises(DataError, match=r"columns file;label: it needs path or bytes. Separate"):
        list(pictures(find(str(tmp_path / "list.csv"))))


def test_a_row_whose_uri_has_a_password_is_no_picture_and_is_kept_nowhere(folder: Path) -> None:
    rows = [
        "s3://KEY:SECRET@bucket/a.jpg",
        "s3://KEY:SEC/SECRET@bucket/a.jpg",
        "https://SECRET@host/a.jpg",
        "https://host/a.jpg?sig=SECRET",
    ]
    pq.write_table(pa.table({"path": rows}), folder.with_name("list.parquet"))
    *refused, taken = pictures(find(str(folder.with_name("list.parquet"))))
    assert [where[0] for _, where in refused] == [MISSING] * 3
    assert "give it by the environment" in str(refused[0].where[1])
    assert "SECRET" not in repr(refused)
    assert (taken.name, taken.where[1]) == ("https://host/a.jpg?sig=…", rows[3])


@pytest.mark.usefixtures("home")
def test_the_rows_of_a_dataset_version_in_the_order_of_its_arrays() -> None:
    colours(8, {"train": 4, "val": 2, "test": 3})
    source = find("colours")
    found = list(pictures(source))
    assert source.shown == "colours@1"
    assert [where[:3] for _, where in found] == [
        *((PACKED, "train", row) for row in range(4)),
        *((PACKED, "val", row) for row in range(2)),
        *((PACKED, "test", row) for row in range(3)),
    ]
    assert [name for name, _ in found][4:6] == ["val/0", "val/1"]
    assert {len(str(where[3])) for _, where in found} == {64}


@pytest.mark.usefixtures("home")
def test_a_source_that_is_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UnknownDatasetError, match="no folder or table pets here, and no dataset 'pets'"):
        find("pets")
    with pytest.raises(UsageError, match="does not exist"):
        find("pets/cats")
    with pytest.raises(UsageError, match=r"notes.txt is no source: give a folder"):
        find("notes.txt")
