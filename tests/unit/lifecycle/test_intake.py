"""Pictures enter the queue once, checked, and whole, whoever sends them and whatever is killed."""

from __future__ import annotations

import io
import multiprocessing
import os
import zipfile
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from raycls.data.place import Folder
from raycls.errors import UnknownDatasetError, UploadError, UploadTooLargeError, UsageError
from raycls.lifecycle.intake import add, add_zip
from raycls.lifecycle.limits import UploadLimits
from raycls.lifecycle.review import purge, reject
from raycls.lifecycle.uploads import Uploads
from tests.killed import killed_at
from tests.unit.lifecycle.pictures import CLASSES, digest, png, stored


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(Folder(tmp_path / "uploads"))


def send(uploads: Uploads, *seeds: int, label: str = "cat", sender: str = "ann", **options):
    pictures = [(f"{seed}.png", png(seed)) for seed in seeds]
    return add(uploads, "pets", pictures, label=label, sender=sender, classes=CLASSES, **options)


def test_a_picture_waits_with_all_that_is_known_of_it(uploads: Uploads) -> None:
    answer = send(uploads, 1, 2)
    assert [(each.file, each.sha256, each.new_class) for each in answer.taken] == [
        ("1.png", digest(png(1)), False),
        ("2.png", digest(png(2)), False),
    ]
    first, second = stored(uploads)
    assert {first.sha256, second.sha256} == {digest(png(1)), digest(png(2))}
    assert (first.name, first.label, first.sender, first.source) == ("pets", "cat", "ann", "upload")
    assert (first.state, first.width, first.height) == ("waiting", 24, 24)
    assert first.size in (len(png(1)), len(png(2)))


def test_a_picture_is_stored_once_and_keeps_its_first_label(uploads: Uploads, tmp_path: Path) -> None:
    send(uploads, 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    answer = send(uploads, 1, label="dog", sender="bob")
    assert [(each.label, each.state) for each in answer.known] == [("cat", "waiting")]
    assert answer.taken == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    reject(uploads, "pets", [digest(png(1))], by="eve")
    assert send(uploads, 1).known[0].state == "rejected"


def test_the_same_picture_twice_in_one_call_is_taken_once(uploads: Uploads) -> None:
    answer = send(uploads, 1, 1)
    assert (len(answer.taken), len(answer.known), len(stored(uploads))) == (1, 1, 1)


def test_two_datasets_share_the_bytes_and_have_a_record_each(uploads: Uploads, tmp_path: Path) -> None:
    send(uploads, 1)
    answer = add(uploads, "other", [("x", png(1))], label="a", sender="ann", classes=("a", "b"))
    assert len(answer.taken) == 1
    assert len(stored(uploads)) == len(stored(uploads, "other")) == 1
    assert len([path for path in (tmp_path / "uploads/pictures").rglob("*") if path.is_file()]) == 1


def test_what_a_preparation_would_refuse_is_refused_with_the_reason(uploads: Uploads) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    big = io.BytesIO()
    Image.new("1", (8000, 8000)).save(big, "PNG")
    files = {
        "text.png": b"no picture",
        "empty.png": b"",
        "short.jpg": whole.getvalue()[:-400],
        "many pixels.png": big.getvalue(),
        "many bytes.png": bytes(30_000),
    }
    limits = UploadLimits(picture_bytes=20_000)
    answer = add(uploads, "pets", files.items(), label="cat", sender="ann", classes=CLASSES, limits=limits)
    reasons = {each.file: each.reason for each in answer.refused}
    assert set(reasons) == set(files)
    for file, part in zip(
        files, ("not an image", "0 bytes", "truncated", "8000×8000", "larger than"), strict=True
    ):
        assert part in reasons[file]
    assert stored(uploads) == []
    assert uploads.tidy() == 0


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "a\0b", "a\nb", "x" * 5000, "ü\u202e\ud800.png", "", ".", "~root"],
)
def test_a_file_name_is_only_told(uploads: Uploads, tmp_path: Path, name: str) -> None:
    answer = add(uploads, "pets", [(name, png(1))], label="cat", sender="ann", classes=CLASSES)
    shown = answer.taken[0].file
    assert len(shown) <= 201
    assert "\n" not in shown and "\0" not in shown
    picture, record = sorted(files(tmp_path), key=lambda path: path.suffix)
    assert (picture.name, record.suffix) == (digest(png(1)), ".jsonl")


@pytest.mark.parametrize(
    "label",
    [
        "",
        " ",
        "..",
        "../x",
        "a/../b",
        "/cat",
        "a//b",
        "a\nb",
        "a\0b",
        "x" * 101,
        "a\\b",
        "\u202ecat",
        "\ud800",
    ],
)
def test_a_label_that_is_no_class_name_is_refused(uploads: Uploads, label: str) -> None:
    with pytest.raises(UploadError):
        send(uploads, 1, label=label)
    assert stored(uploads) == []


def test_a_new_class_of_the_queue_is_known_to_the_next_call(uploads: Uploads) -> None:
    assert [each.new_class for each in send(uploads, 1, label="Bird").taken] == [True]
    assert [each.label for each in send(uploads, 2, label="bird").taken] == ["Bird"], "one new class, not two"


@pytest.mark.parametrize("sender", ["", "a b", "../x", "a\nb", "x" * 101, "ü"])
def test_a_sender_has_a_plain_name(uploads: Uploads, sender: str) -> None:
    with pytest.raises(UsageError, match="cannot name a sender"):
        send(uploads, 1, sender=sender)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 101, "pets@1"])
def test_a_dataset_has_a_plain_name(uploads: Uploads, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a dataset"):
        add(uploads, name, [], label="cat", sender="ann", classes=CLASSES)


@pytest.mark.usefixtures("home")
def test_a_dataset_that_nobody_has_is_told(uploads: Uploads) -> None:
    with pytest.raises(UnknownDatasetError, match="no dataset 'pets'"):
        add(uploads, "pets", [("1.png", png(1))], label="cat", sender="ann")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_too_many_pictures_are_refused_as_a_whole(uploads: Uploads, tmp_path: Path) -> None:
    with pytest.raises(UploadTooLargeError, match="more than 2 pictures"):
        send(uploads, 1, 2, 3, limits=UploadLimits(files=2))
    assert files(tmp_path) == []


def test_formats_can_be_limited(uploads: Uploads) -> None:
    tiff = io.BytesIO()
    Image.open(io.BytesIO(png(1))).save(tiff, "TIFF")
    pictures = [("1.tiff", tiff.getvalue()), ("2.png", png(2))]
    limits = UploadLimits(formats=("JPEG", "PNG"))
    answer = add(uploads, "pets", pictures, label="cat", sender="ann", classes=CLASSES, limits=limits)
    assert [each.file for each in answer.taken] == ["2.png"]
    assert "not an image of a known format" in answer.refused[0].reason
    assert len(add(uploads, "pets", pictures[:1], label="cat", sender="ann", classes=CLASSES).taken) == 1


def test_a_call_that_is_interrupted_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    def pictures():
        yield "1.png", png(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(uploads, "pets", pictures(), label="cat", sender="ann", classes=CLASSES)
    assert files(tmp_path) == []


def test_pixels_are_limited_for_all_pictures_of_a_call(uploads: Uploads) -> None:
    answer = send(uploads, 1, 2, 3, limits=UploadLimits(pixels_of_all=2 * 24 * 24))
    assert [each.file for each in answer.taken] == ["1.png", "2.png"]
    assert "too many pixels together" in answer.refused[0].reason
    assert len(send(uploads, 3).taken) == 1


def test_a_full_store_takes_nothing_more(uploads: Uploads) -> None:
    limits = UploadLimits(quota_bytes=len(png(1)) + len(png(2)))
    answer = send(uploads, 1, 2, 3, limits=limits)
    assert [each.file for each in answer.taken] == ["1.png", "2.png"]
    assert "full" in answer.refused[0].reason
    assert "full" in send(uploads, 4, limits=limits).refused[0].reason


@pytest.mark.usefixtures("home")
def test_a_purged_picture_is_never_taken_again(uploads: Uploads) -> None:
    send(uploads, 1)
    purge(uploads, digest(png(1)), by="eve")
    assert send(uploads, 1).refused[0].reason == "it was purged for good"


def zip_of(files: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer


def test_a_zip_of_class_folders(uploads: Uploads) -> None:
    inner = zip_of({"cat/1.png": png(9)}).getvalue()
    file = zip_of(
        {
            "cat/1.png": png(1),
            "dog/2.png": png(2),
            "dog/again.png": png(1),
            "dog/inner.png": inner,
            "bird/large.png": bytes(30_000),
            "bird/3.png": png(3),
            "../4.png": png(4),
        }
    )
    limits = UploadLimits(picture_bytes=20_000)
    answer = add_zip(uploads, "pets", file, sender="ann", classes=CLASSES, limits=limits)
    assert {(each.file, each.label, each.new_class) for each in answer.taken} == {
        ("cat/1.png", "cat", False),
        ("dog/2.png", "dog", False),
        ("bird/3.png", "bird", True),
    }
    assert [each.file for each in answer.known] == ["dog/again.png"]
    assert {each.file for each in answer.refused} == {"../4.png", "dog/inner.png", "bird/large.png"}
    assert len(stored(uploads)) == 3
    assert set(answer.as_json()) == {"taken", "known", "refused", "ignored"}


def test_a_folder_of_a_zip_that_is_no_class_is_refused_alone(uploads: Uploads) -> None:
    file = zip_of(
        {"cat/1.png": png(1), "x" * 200 + "/2.png": png(2), "Bird/3.png": png(3), "bird/4.png": png(4)}
    )
    answer = add_zip(uploads, "pets", file, sender="ann", classes=CLASSES)
    assert sorted((each.label, each.new_class) for each in answer.taken) == [
        ("Bird", True),
        ("Bird", True),
        ("cat", False),
    ]
    assert "more than 100 characters" in answer.refused[0].reason


def test_a_zip_that_exceeds_a_limit_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    file = zip_of({"cat/1.png": png(1), "dog/bomb.png": bytes(1 << 20)})
    with pytest.raises(UploadTooLargeError):
        add_zip(
            uploads, "pets", file, sender="ann", classes=CLASSES, limits=UploadLimits(unpacked_bytes=500_000)
        )
    assert files(tmp_path) == []


def test_a_kill_at_any_step_leaves_all_or_nothing_and_the_next_call_completes_it(tmp_path: Path) -> None:
    step = 1
    while True:
        folder = tmp_path / str(step)
        uploads = Uploads(Folder(folder))
        killed = killed_at(step, partial(send, Uploads(Folder(folder)), 1, 2, 3))
        assert len(stored(uploads)) in (0, 3)
        again = send(uploads, 1, 2, 3)
        assert len(again.taken) + len(again.known) == 3
        assert {record.sha256 for record in stored(uploads)} == {digest(png(seed)) for seed in (1, 2, 3)}
        if not killed:
            break
        step += 1
    assert step > 12


def test_pictures_without_a_record_are_removed_after_an_hour(uploads: Uploads, tmp_path: Path) -> None:
    for seed in (1, 2):
        uploads.keep(digest(png(seed)), png(seed))
    send(uploads, 3)
    old = [digest(png(seed)) for seed in (1, 3)]
    for sha256 in old:
        os.utime(tmp_path / "uploads/pictures" / sha256[:2] / sha256, (0, 0))
    assert uploads.tidy() == 1
    assert [uploads.has(digest(png(seed))) for seed in (1, 2, 3)] == [False, True, True]


def _send_many(folder: Path, sender: str, start, answers) -> None:
    start.wait()
    answer = send(Uploads(Folder(folder)), *range(20), sender=sender)
    answers.put((len(answer.taken), len(answer.known), len(answer.refused)))


def test_two_processes_that_send_the_same_pictures_make_one_record_of_each(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_send_many, args=(tmp_path, sender, start, answers))
        for sender in ("ann", "bob")
    ]
    for process in processes:
        process.start()
    counts = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert all(taken + known == 20 and refused == 0 for taken, known, refused in counts)
    assert sum(taken for taken, _, _ in counts) >= 20
    assert len(stored(Uploads(Folder(tmp_path)))) == 20
    assert len([path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]) == 20


def test_what_others_do_during_a_call_is_in_its_answer(uploads: Uploads, tmp_path: Path) -> None:
    """Another process purges the first picture, sends the second, and deletes the bytes of the third."""
    other = Uploads(Folder(tmp_path / "uploads"))
    purged, sent, lost, mine = (digest(png(seed)) for seed in (1, 2, 3, 4))

    def pictures():
        yield from ((f"{seed}.png", png(seed)) for seed in (1, 2, 3, 4))
        other.write([{"kind": "purged", "sha256": purged, "by": "eve"}])
        send(other, 2, label="dog", sender="bob")
        (tmp_path / "uploads/pictures" / lost[:2] / lost).unlink()

    answer = add(uploads, "pets", pictures(), label="cat", sender="ann", classes=CLASSES)
    assert [each.sha256 for each in answer.taken] == [mine]
    assert [(each.sha256, each.label) for each in answer.known] == [(sent, "dog")]
    assert [each.file for each in answer.refused] == ["1.png", "3.png"]
    assert not uploads.has(purged)
    assert uploads.records().of["pets", lost].state == "expired"
    assert [each.sha256 for each in send(uploads, 3).taken] == [lost]


def test_a_picture_that_a_record_needs_is_not_dropped(uploads: Uploads) -> None:
    send(uploads, 1)
    uploads.drop(digest(png(1)))
    assert uploads.has(digest(png(1)))


def test_a_picture_that_is_sent_while_it_is_dropped_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Folder(tmp_path)
    dropping, sending = Uploads(place), Uploads(Folder(tmp_path))
    sha256 = digest(png(1))
    dropping.keep(sha256, png(1))
    row = {"kind": "added", "name": "pets", "label": "cat", "by": "ann", "source": "upload", "size": 1}

    def delete(path: str) -> None:
        Folder.delete(place, path)
        sending.write([{**row, "sha256": sha256, "width": 24, "height": 24}])

    monkeypatch.setattr(place, "delete", delete)
    dropping.drop(sha256)
    assert [record.sha256 for record in stored(sending)] == [sha256]
