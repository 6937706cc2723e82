"""Files in a place are whole or absent, here and in other file systems."""

from __future__ import annotations

import gzip
import os
import uuid
from pathlib import Path

import pytest

from raycls.data.place import ASIDE, Bucket, Folder, Place, open_place, place_at, telling
from raycls.errors import DataError, UsageError
from tests.killed import killed_at


@pytest.fixture(params=["folder", "file system of fsspec"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return place_at(str(tmp_path / "place"))
    return place_at(f"memory://{uuid.uuid4().hex}/place")


def test_what_is_put_is_found_and_what_is_deleted_is_gone(place: Place) -> None:
    assert not place.exists("log/1")
    assert place.files("log") == []
    place.put("log/1", b"one")
    place.put("log/deeper/2", b"three")
    assert place.get("log/1") == b"one"
    assert place.exists("log/1")
    found = {file.name: file.size for file in place.files("log")}
    assert found == {"1": 3, "2": 5}
    assert all(-1 < file.age < 60 for file in place.files("log"))
    place.delete("log/1")
    place.delete("log/1")
    assert not place.exists("log/1")
    with pytest.raises(FileNotFoundError):
        place.get("log/1")


def test_the_kinds_of_places(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(place_at(f"file://{tmp_path}/place"), Folder)
    assert isinstance(place_at("memory://place"), Bucket)
    assert open_place("uploads").full("x") == str(home / "uploads" / "x")
    monkeypatch.setenv("RAYCLS_STORAGE", "memory://shared?x=1")
    assert open_place("uploads").full("y") == "memory://shared/uploads/y?x=1"
    with pytest.raises(UsageError, match="cannot be opened"):
        place_at("nosuchsystem://place")


@pytest.mark.parametrize("uri", ["file://{}/place", "memory://compressed"])
def test_a_file_has_the_bytes_that_were_put_whatever_it_is_called(uri: str, tmp_path: Path) -> None:
    """By its name, pyarrow would compress it once more, and decompress it."""
    place = place_at(uri.format(tmp_path))
    content = gzip.compress(b"one")
    place.put("log/1.gz", content)
    assert place.get("log/1.gz") == content
    assert [file.size for file in place.files("log")] == [len(content)]


def test_a_file_that_is_killed_while_it_is_written_does_not_exist(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    step = 1
    while killed_at(step, lambda: place.put("log/1", b"one")):
        names = [file.name for file in place.files("log")]
        assert names in ([], ["1"])
        assert not names or place.get("log/1") == b"one"
        step += 1
    assert step > 3


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_files_of_a_folder_alone(tmp_path: Path, form: str) -> None:
    place = place_at(form.format(tmp_path))
    place.put("a", b"")
    place.put("log/b", b"")
    assert [file.name for file in place.files("", below=False)] == ["a"]
    assert {file.name for file in place.files("")} == {"a", "b"}


def test_unfinished_files_are_removed_after_an_hour(tmp_path: Path) -> None:
    old, young = tmp_path / f"log/old{ASIDE}", tmp_path / f"log/young{ASIDE}"
    old.parent.mkdir()
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    assert Folder(tmp_path).files("log") == []
    assert (old.exists(), young.exists()) == (False, True)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="RAYCLS_STORAGE"), telling():
        place_at(str(tmp_path / "file")).put("log/1", b"one")
