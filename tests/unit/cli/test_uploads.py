"""`raycls uploads` and `raycls data prepare --add-uploads`: results on stdout, one document with --json."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from raycls.cli import run
from raycls.data.versions import versions_of
from tests.unit.lifecycle.pictures import digest, png

BY = ("--by", "ann")


@pytest.fixture
def pets(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset pets@1, and three pictures that are not in it, in a folder."""
    from raycls.data.ingest import decode_here
    from raycls.data.prepare import prepare

    monkeypatch.setattr("raycls.data.prepare.decode_all", decode_here)  # which needs no Ray
    for number, label in enumerate(("cat", "dog")):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index in range(30):
            (tmp_path / "pets" / label / f"{index}.png").write_bytes(png(1000 * (number + 1) + index))
    prepare(str(tmp_path / "pets"), size=16)
    folder = tmp_path / "new"
    folder.mkdir()
    for seed in (1, 2, 3):
        (folder / f"{seed}.png").write_bytes(png(seed))
    return folder


def called(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert run(arguments) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err.splitlines()[-1]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(called(capsys, *arguments, "--json"))


def test_from_the_files_to_the_next_version(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "notes.txt").write_text("no picture")
    told = called(capsys, "uploads", "add", "pets", str(pets), "--label", "cat", *BY)
    assert told.splitlines()[-1] == "3 taken, 0 known, 1 refused"
    assert "refused  notes.txt: the bytes are not an image" in told
    assert "known    1.png: waiting as cat" in called(
        capsys, "uploads", "add", "pets", str(pets / "1.png"), "--label", "cat"
    )
    listed = called(capsys, "uploads", "list", "pets")
    assert digest(png(1))[:12] in listed
    assert "page 1 of 1: 3 pictures" in listed
    accepted = called(capsys, "uploads", "accept", "pets", digest(png(1))[:12], digest(png(2)), *BY)
    assert accepted.splitlines() == [f"{digest(png(seed))[:12]}  accepted as cat" for seed in (1, 2)]
    assert "rejected as cat" in called(capsys, "uploads", "reject", "pets", digest(png(3)), *BY)
    assert "accepted as dog" in called(capsys, "uploads", "relabel", "pets", digest(png(2)), "dog", *BY)
    told = called(capsys, "data", "prepare", "pets", "--add-uploads")
    assert told.splitlines()[0].startswith("pets@2: ")
    assert told.splitlines()[-1] == "2 uploads are new in it; 0 wait for a later version"
    assert called(capsys, "uploads", "purge", digest(png(2)), *BY) == "purged, also from pets@2\n"


def test_a_zip_and_documents(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "more.ZIP", "w") as archive:
        for seed, label in ((1, "cat"), (2, "dog"), (3, "bird"), (4, "..")):
            archive.writestr(f"{label}/{seed}.png", png(seed))
    answer = document(capsys, "uploads", "add", "pets", str(tmp_path / "more.ZIP"), *BY)
    assert {each["label"]: each["new_class"] for each in answer["taken"]} == {
        "cat": False,
        "dog": False,
        "bird": True,
    }
    assert len(answer["refused"]) == 1
    page = document(capsys, "uploads", "list", "pets", "--label", "bird")
    assert [(row["sha256"], row["new_class"]) for row in page["uploads"]] == [(digest(png(3)), True)]
    (record,) = document(capsys, "uploads", "accept", "pets", digest(png(1)), *BY)
    assert (record["state"], record["history"][0]["by"]) == ("accepted", "ann")
    assert document(capsys, "uploads", "relabel", "pets", digest(png(2)), "cat")[0]["label"] == "cat"
    assert document(capsys, "uploads", "reject", "pets", digest(png(3)))[0]["state"] == "rejected"
    made = document(capsys, "data", "prepare", "pets", "--add-uploads", "--trust", "bob")
    assert (made["version"], made["added"], made["waiting"]) == (2, 2, {})
    purged = document(capsys, "uploads", "purge", digest(png(1)))
    assert purged == {"purged": digest(png(1)), "changed": ["pets@2"]}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("uploads", "add", "pets", "FOLDER/1.png"), "give --label"),
        (("uploads", "add", "pets", "FOLDER/none.png", "--label", "cat"), "is no file"),
        (("uploads", "add", "pets", "FOLDER/a.zip", "--label", "cat"), "a zip has class folders"),
        (("uploads", "add", "pest", "FOLDER/1.png", "--label", "cat"), "no dataset 'pest'"),
        (("uploads", "add", "pets", "FOLDER/1.png", "--label", "cat", "--by", "a b"), "cannot name a sender"),
        (("uploads", "list", "pets", "--state", "odd"), "choose one of waiting, accepted"),
        (("uploads", "accept", "pets", "0" * 64), "nobody has sent it"),
        (("uploads", "purge", "0" * 64), "no upload and dataset version"),
        (("data", "prepare", "pets", "--trust", "ann"), "--trust is for --add-uploads"),
        (("data", "prepare", "pets", "--add-uploads", "--no-mirror"), "remove --mirror"),
        (("data", "prepare", "pets", "--add-uploads", "--size", "32"), "remove --size"),
        (("data", "prepare", "pest", "--add-uploads"), "no dataset 'pest'"),
    ],
)
def test_wrong_use_is_told(
    pets: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    given = [argument.replace("FOLDER", str(pets)) for argument in arguments]
    assert told in called(capsys, *given, code=2)
    assert versions_of("pets") == [1]
