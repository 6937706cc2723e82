"""Accepted pictures become part of the next dataset version, once, and each in the right split."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageEnhance

from raycls import home as places
from raycls.data.ingest import decode_here
from raycls.data.layout import DECODED, versions_of
from raycls.data.manifest import is_upload, read_left_out, read_rows
from raycls.data.packed import PackedDataset
from raycls.data.prepare import prepare
from raycls.data.transforms import read_square
from raycls.data.versions import open_dataset
from raycls.errors import BusyError, UnknownDatasetError, UsageError
from raycls.lifecycle.intake import add
from raycls.lifecycle.next_version import add_uploads
from raycls.lifecycle.review import accept, purge, reject, relabel
from raycls.lifecycle.uploads import Uploads
from tests.killed import killed_at
from tests.unit.data import shapes
from tests.unit.lifecycle.pictures import CLASSES, digest, image, png

EACH = 40  # images of a class in the folder


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photographs, and pets@1 made of it."""
    monkeypatch.setattr("raycls.data.prepare.decode_all", decode_here)  # which needs no Ray
    path = tmp_path / "pets"
    for number, label in enumerate(CLASSES):
        (path / label).mkdir(parents=True)
        for index in range(EACH):
            (path / label / f"{index}.png").write_bytes(png(1000 * (number + 1) + index))
    prepare(str(path), size=16)
    return path


@pytest.fixture
def uploads(folder: Path) -> Uploads:
    shutil.rmtree(folder)  # the next version needs no source
    return Uploads()


def accepted(uploads: Uploads, *seeds: int, label: str = "cat", sender: str = "ann") -> list[str]:
    return accepted_files(uploads, [png(seed) for seed in seeds], label=label, sender=sender)


def accepted_files(
    uploads: Uploads, files: list[bytes], *, label: str = "cat", sender: str = "ann"
) -> list[str]:
    add(uploads, "pets", [("x", data) for data in files], label=label, sender=sender)
    accept(uploads, "pets", [digest(data) for data in files], by="eve")
    return [digest(data) for data in files]


def rows_of(dataset: PackedDataset) -> dict[str, dict]:
    return {row["sha256"]: row for row in read_rows(dataset).to_pylist()}


def pixels_of(dataset: PackedDataset) -> dict[str, bytes]:
    images = [
        dataset.images(split)[row] for split, count in dataset.info.counts.items() for row in range(count)
    ]
    return {
        sha256: pixels.tobytes()
        for sha256, pixels in zip(read_rows(dataset)["sha256"].to_pylist(), images, strict=True)
    }


def test_the_next_version_has_the_former_images_and_the_accepted_pictures(uploads: Uploads) -> None:
    former = open_dataset("pets")
    shas = accepted(uploads, 1, 2, 3)
    add(uploads, "pets", [("x", png(4))], label="cat", sender="ann")
    added = add_uploads("pets")
    assert (added.dataset.info.reference, added.count, added.waiting) == ("pets@2", 3, {})
    added.dataset.verify()
    before, after = rows_of(former), rows_of(added.dataset)
    assert {sha: after[sha] for sha in before} == before, "also their splits and groups"
    assert set(after) - set(before) == set(shas)
    for sha, seed in zip(shas, (1, 2, 3), strict=True):
        assert (after[sha]["source"], after[sha]["label"]) == ("uploads:ann", "cat")
        assert (after[sha]["width"], after[sha]["mode"]) == (24, "RGB")
        assert pixels_of(added.dataset)[sha] == read_square(png(seed), 16).tobytes()
    packed = pixels_of(added.dataset)
    assert all(packed[sha] == pixels for sha, pixels in pixels_of(former).items())
    labels = np.concatenate([added.dataset.labels(split) for split in added.dataset.info.counts])
    assert [CLASSES[label] for label in labels] == [row["label"] for row in after.values()]
    assert former.info.options == added.dataset.info.options


def test_a_second_call_makes_no_version(uploads: Uploads, capsys: pytest.CaptureFixture[str]) -> None:
    assert add_uploads("pets").dataset.info.reference == "pets@1"
    accepted(uploads, 1)
    assert add_uploads("pets").dataset.info.reference == "pets@2"
    again = add_uploads("pets")
    assert (again.dataset.info.reference, again.count) == ("pets@2", 0)
    assert "pets@2 has all accepted pictures already: nothing is new" in capsys.readouterr().err
    assert versions_of("pets") == [1, 2]


@pytest.mark.parametrize("split", ["train", "val", "gate", "test"])
def test_a_picture_that_is_almost_one_of_a_split_goes_there(uploads: Uploads, split: str) -> None:
    seeds = {digest(png(1000 + index)): 1000 + index for index in range(EACH)}
    former = next(
        sha for sha, row in rows_of(open_dataset("pets")).items() if row["split"] == split and sha in seeds
    )
    buffer = io.BytesIO()
    larger = ImageEnhance.Brightness(image(seeds[former], side=48)).enhance(0.95)
    larger.save(buffer, "JPEG", quality=95, subsampling=0)
    (sha,) = accepted_files(uploads, [buffer.getvalue()])
    rows = rows_of(add_uploads("pets").dataset)
    assert (rows[sha]["split"], rows[sha]["group"]) == (split, rows[former]["group"])


def test_one_sender_gives_at_most_a_tenth_of_a_class(
    uploads: Uploads, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted(uploads, *range(1, 11), sender="ann")
    accepted(uploads, *range(11, 14), sender="bob")
    first = add_uploads("pets")
    assert (first.count, first.waiting) == (EACH // 9 + 3, {"ann": 10 - EACH // 9})
    assert f"{10 - EACH // 9} accepted pictures of ann wait" in capsys.readouterr().err
    senders = [row["source"] for row in rows_of(first.dataset).values() if row["label"] == "cat"]
    assert senders.count("uploads:ann") <= len(senders) / 10
    assert add_uploads("pets").dataset.info.reference == "pets@2"
    trusted = add_uploads("pets", trusted=["ann"])
    assert (trusted.dataset.info.reference, trusted.count, trusted.waiting) == ("pets@3", 10 - EACH // 9, {})


def test_a_new_class_needs_trust_and_three_pictures(uploads: Uploads) -> None:
    accepted(uploads, 1, 2, label="bird")
    assert add_uploads("pets").waiting == {"ann": 2}
    assert add_uploads("pets", trusted=["ann"]).waiting == {"ann": 2}
    accepted(uploads, 3, 4, label="bird")
    assert add_uploads("pets").waiting == {"ann": 4}
    added = add_uploads("pets", trusted=["ann"])
    assert (added.count, added.waiting) == (4, {})
    assert added.dataset.info.classes == (*CLASSES, "bird"), "the former classes keep their places"


def test_a_later_decision_changes_the_version_after(uploads: Uploads) -> None:
    first, second, third = accepted(uploads, 1, 2, 3)
    add_uploads("pets")
    relabel(uploads, "pets", first, "dog", by="eve", classes=CLASSES)
    reject(uploads, "pets", [second], by="eve")
    before = rows_of(open_dataset("pets@2"))
    added = add_uploads("pets")
    rows = rows_of(added.dataset)
    assert (added.dataset.info.reference, added.count) == ("pets@3", 0)
    assert (rows[first]["label"], rows[first]["split"]) == ("dog", before[first]["split"])
    assert second not in rows
    assert rows[third] == before[third]
    accept(uploads, "pets", [second], by="eve")
    assert rows_of(add_uploads("pets").dataset)[second]["split"] == before[second]["split"]


def test_a_store_that_was_lost_takes_nothing_out_of_the_dataset(uploads: Uploads, home: Path) -> None:
    (first,) = accepted(uploads, 1)
    add_uploads("pets")
    shutil.rmtree(home / "uploads")
    accepted(Uploads(), 2)
    assert first in rows_of(add_uploads("pets").dataset)


def test_a_picture_that_is_damaged_in_the_store_is_left_out_and_taken_when_it_is_whole(
    uploads: Uploads, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = accepted(uploads, 1, 2)
    file = home / "uploads/pictures" / bad[:2] / bad
    whole = file.read_bytes()
    file.write_bytes(png(3))
    added = add_uploads("pets")
    assert (added.count, good in rows_of(added.dataset), bad in rows_of(added.dataset)) == (1, True, False)
    assert "1 accepted pictures cannot be read now" in capsys.readouterr().err
    (row,) = read_left_out(added.dataset).to_pylist()
    assert (row["source"], row["kind"], row["sha256"]) == ("uploads:ann", "unreadable", bad)
    file.write_bytes(whole)
    again = add_uploads("pets")
    assert (again.dataset.info.reference, bad in rows_of(again.dataset)) == ("pets@3", True)
    assert read_left_out(again.dataset).to_pylist() == []


def test_what_killed_requests_left_is_removed(uploads: Uploads, home: Path) -> None:
    uploads.keep(digest(png(1)), png(1))
    (file,) = (path for path in (home / "uploads/pictures").rglob("*") if path.is_file())
    add_uploads("pets")
    assert file.exists()
    os.utime(file, (0, 0))
    add_uploads("pets")
    assert not file.exists()


def test_a_purged_picture_leaves_the_versions_and_never_comes_back(uploads: Uploads) -> None:
    first, second = accepted(uploads, 1, 2)
    add_uploads("pets")
    assert purge(uploads, first, by="eve") == ["pets@2"]
    assert set(rows_of(open_dataset("pets@2"))) & {first, second} == {second}
    assert add_uploads("pets").dataset.info.reference == "pets@2"


def test_a_purge_that_is_killed_at_any_step_is_finished_by_the_next(uploads: Uploads, home: Path) -> None:
    first, second = accepted(uploads, 1, 2)
    add_uploads("pets")
    saved = home.with_name("saved")
    shutil.copytree(home, saved)
    step = 1
    while killed_at(step, partial(purge, Uploads(), first, by="eve")):
        purge(Uploads(), first, by="eve")
        assert not Uploads().has(first)
        assert set(rows_of(open_dataset("pets@2"))) & {first, second} == {second}
        purges = [step for step in Uploads().records().of["pets", first].history if step.to_state == "purged"]
        assert len(purges) == 1
        shutil.rmtree(home)
        shutil.copytree(saved, home)
        step += 1
    assert step > 10


def test_preparing_from_the_folder_again_says_that_uploads_are_missing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sha,) = accepted(Uploads(), 1)
    split = rows_of(add_uploads("pets").dataset)[sha]["split"]
    assert sha not in rows_of(prepare(str(folder)))
    assert "pets@2 has 1 uploaded pictures, which a version of the source lacks" in capsys.readouterr().err
    assert rows_of(add_uploads("pets").dataset)[sha]["split"] == split


def test_the_built_in_dataset_takes_uploads_too(home: Path) -> None:
    prepare("digits")
    uploads = Uploads()
    add(uploads, "digits", [("x", png(1))], label="7", sender="ann")
    accept(uploads, "digits", [digest(png(1))], by="eve")
    added = add_uploads("digits")
    assert (added.dataset.info.reference, added.count) == ("digits@2", 1)
    assert prepare("digits").info.reference == "digits@2"


@pytest.mark.usefixtures("home")
def test_wrong_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownDatasetError):
        add_uploads("nothing")
    dataset = shapes.make()
    monkeypatch.setattr("raycls.data.additions.read_rows", lambda dataset: read_rows(dataset).slice(0, 0))
    with pytest.raises(UsageError, match="prepare it again from its source first"):
        add_uploads(dataset.info.name)


def test_a_kill_at_any_step_leaves_the_former_state_or_the_new_version(uploads: Uploads, home: Path) -> None:
    shas = set(accepted(uploads, 1, 2, 3))
    saved = home.with_name("saved")
    shutil.copytree(home, saved)
    step = 1
    while True:
        shutil.rmtree(home)
        shutil.copytree(saved, home)
        killed = killed_at(step, partial(add_uploads, "pets"))
        assert versions_of("pets") in ([1], [1, 2])
        open_dataset("pets").verify()
        made = add_uploads("pets").dataset
        assert versions_of("pets") == [1, made.info.version]
        assert {sha for sha, row in rows_of(made).items() if is_upload(row["source"])} == shas
        assert not (places.datasets() / "pets" / DECODED).exists()
        assert not list((places.datasets() / "pets").glob(".*.tmp"))
        if not killed:
            break
        step += 1
    assert step > 15


def _add(start, answers) -> None:
    start.wait()
    try:
        answers.put(add_uploads("pets").count)
    except BusyError:
        answers.put(None)


def test_two_processes_make_one_version(uploads: Uploads) -> None:
    accepted(uploads, 1, 2, 3)
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_add, args=(start, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    counts = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(counts, key=str) in ([0, 3], [3, None])
    assert versions_of("pets") == [1, 2]
