"""Decisions about pictures: what they change, who made them, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.data.exclusion import forgotten_here
from raycls.data.manifest import read_rows
from raycls.data.place import Folder
from raycls.data.versions import open_dataset
from raycls.errors import UnknownRecordError, UploadError, UsageError
from raycls.lifecycle.intake import add
from raycls.lifecycle.review import accept, list_uploads, purge, reject, relabel
from raycls.lifecycle.uploads import Uploads
from tests.unit.data import shapes
from tests.unit.lifecycle.pictures import CLASSES, digest, png, stored

pytestmark = pytest.mark.usefixtures("home")
FIRST, SECOND, UNKNOWN = digest(png(1)), digest(png(2)), "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
def uploads(folder: Path) -> Uploads:
    """A queue with two pictures of cats and one of a bird."""
    made = Uploads(Folder(folder))
    for seed, label in ((1, "cat"), (2, "cat"), (3, "bird")):
        add(made, "pets", [("x", png(seed))], label=label, sender=f"ann{seed}", classes=CLASSES)
    return made


def files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def test_accept_and_reject_say_who_decided(uploads: Uploads) -> None:
    (record,) = accept(uploads, "pets", [FIRST[:8]], by="eve")
    assert (record.sha256, record.state) == (FIRST, "accepted")
    (record,) = reject(uploads, "pets", [FIRST], by="bob")
    assert [(step.by, step.from_state, step.to_state) for step in record.history] == [
        ("eve", "waiting", "accepted"),
        ("bob", "accepted", "rejected"),
    ]
    assert {record.state for record in stored(uploads)} == {"rejected", "waiting"}


def test_a_decision_that_changes_nothing_writes_nothing(uploads: Uploads, folder: Path) -> None:
    accept(uploads, "pets", [FIRST, FIRST], by="eve")
    relabel(uploads, "pets", SECOND, "dog", by="eve", classes=CLASSES)
    before = files(folder)
    accept(uploads, "pets", [FIRST, SECOND], by="bob")
    relabel(uploads, "pets", SECOND, "dog", by="bob", classes=CLASSES)
    assert files(folder) == before


def test_relabel_accepts_as_another_class(uploads: Uploads) -> None:
    record = relabel(uploads, "pets", FIRST, "DOG", by="eve", classes=CLASSES)
    assert (record.label, record.state) == ("dog", "accepted")
    with pytest.raises(UploadError, match="cannot name a class"):
        relabel(uploads, "pets", FIRST, "../x", by="eve", classes=CLASSES)


def test_what_nobody_sent_is_told_and_nothing_else_is_decided(uploads: Uploads) -> None:
    for sha256, error in (
        (UNKNOWN, UnknownRecordError),
        ("0" * 8, UnknownRecordError),
        ("xyz", UsageError),
        ("", UsageError),
    ):
        with pytest.raises(error):
            accept(uploads, "pets", [FIRST, sha256], by="eve")
    with pytest.raises(UnknownRecordError):
        accept(uploads, "others", [FIRST], by="eve")
    with pytest.raises(UsageError, match="cannot name a sender"):
        accept(uploads, "pets", [FIRST], by="")
    assert {record.state for record in stored(uploads)} == {"waiting"}


def test_a_beginning_that_fits_two_pictures_is_told(uploads: Uploads) -> None:
    twins = ["abcdef01" + digit * 56 for digit in "12"]
    row = {"kind": "added", "name": "pets", "label": "cat", "by": "ann", "source": "upload"}
    uploads.write({**row, "sha256": sha256, "size": 1, "width": 1, "height": 1} for sha256 in twins)
    with pytest.raises(UsageError, match="2 pictures begin with abcdef01"):
        accept(uploads, "pets", ["abcdef01"], by="eve")


def test_pages_of_the_queue(uploads: Uploads) -> None:
    accept(uploads, "pets", [SECOND], by="eve")
    page = list_uploads(uploads, "pets", classes=CLASSES)
    assert [record.sender for record in page.records] == ["ann1", "ann3"]
    assert [page.is_new_class(record) for record in page.records] == [False, True]
    assert [row["new_class"] for row in page.as_json()["uploads"]] == [False, True]
    second = list_uploads(uploads, "pets", classes=CLASSES, state=None, page=2, size=2)
    assert ([record.sender for record in second.records], second.total, second.pages) == (["ann3"], 3, 2)
    assert list_uploads(uploads, "pets", classes=CLASSES, sender="ann3").total == 1
    assert list_uploads(uploads, "pets", classes=CLASSES, label="cat", state=None).total == 2
    assert list_uploads(uploads, "nobody", classes=CLASSES).pages == 1
    with pytest.raises(UsageError, match="pages begin with 1"):
        list_uploads(uploads, "pets", classes=CLASSES, page=0)


def test_captured_pictures_can_be_hidden(uploads: Uploads) -> None:
    add(uploads, "pets", [("x", png(4))], label="cat", sender="capture", source="captured", classes=CLASSES)
    assert list_uploads(uploads, "pets", classes=CLASSES).total == 4
    assert list_uploads(uploads, "pets", classes=CLASSES, captured=False).total == 3


def test_purge_removes_the_picture_and_keeps_the_record(uploads: Uploads, folder: Path) -> None:
    assert purge(uploads, FIRST[:10], by="eve") == []
    assert not uploads.has(FIRST)
    assert png(1) not in [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    record = uploads.records().of["pets", FIRST]
    assert (record.state, record.history[-1].by) == ("purged", "eve")
    assert FIRST in forgotten_here(), "no later version takes it from a folder either"
    assert list_uploads(uploads, "pets", classes=CLASSES).total == 2
    with pytest.raises(UnknownRecordError, match="it is purged"):
        accept(uploads, "pets", [FIRST], by="eve")
    before = files(folder)
    assert purge(uploads, FIRST, by="bob") == []
    assert files(folder) == before


def test_purge_takes_an_image_of_a_source_out_of_the_versions_and_says_so(uploads: Uploads) -> None:
    dataset = shapes.make()
    sha256 = read_rows(dataset)["sha256"][0].as_py()
    assert purge(uploads, sha256, by="eve") == ["shapes@1"]
    assert sha256 not in read_rows(open_dataset("shapes"))["sha256"].to_pylist()
    assert sha256 in uploads.records().purged
    with pytest.raises(UnknownRecordError, match="no upload"):
        purge(uploads, UNKNOWN, by="eve")
    assert UNKNOWN not in uploads.records().purged
