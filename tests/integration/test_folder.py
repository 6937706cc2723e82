"""Folders of real image files through `prepare`, decoded by a real Ray."""

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from raycls import home as places
from raycls.data.forget import forget
from raycls.data.manifest import read_left_out, read_rows
from raycls.data.prepare import prepare
from raycls.data.transforms import read_square
from raycls.data.versions import list_datasets
from raycls.errors import DataError, UsageError
from raycls.reports.dataset_check import run_check

pytestmark = pytest.mark.usefixtures("home", "ray_session")
ROOT = Path(__file__).parents[2]
EMOTIONS = ROOT.parent / "shared/data/emotions"
RED, BLUE = (200, 20, 30), (10, 30, 220)


def photographs(folder: Path, colour: tuple[int, int, int], count: int, side: int = 20) -> None:
    """Noisy images around one colour, in several formats and sizes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(count)
    for index in range(count):
        shape = (side + index % 7, side + index % 5, 3)
        pixels = np.clip(random.normal(colour, 20, shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(
            folder / f"{index:03}.{('png', 'jpg', 'bmp', 'webp', 'tiff')[index % 5]}"
        )


@pytest.fixture
def photos(tmp_path):
    """Two class folders of 20 readable images each."""
    photographs(tmp_path / "Photos/red", RED, 20)
    photographs(tmp_path / "Photos/blue", BLUE, 20)
    return tmp_path / "Photos"


def test_a_folder_is_split_by_class_and_keeps_each_image_with_its_label(photos):
    dataset = prepare(str(photos))
    made = dataset.info
    assert (made.name, made.classes, made.image_size) == ("photos", ("blue", "red"), 16)
    assert made.class_counts == {"train": (14, 14), "val": (2, 2), "gate": (2, 2), "test": (2, 2)}
    assert (made.mirrorable, made.left_out, made.source) == (True, 0, str(photos))
    for split in made.counts:
        reds = dataset.images(split)[..., 0].mean(axis=(1, 2)) > 100
        assert np.array_equal(reds, dataset.labels(split) == 1)
    dataset.verify()
    rows = read_rows(dataset).to_pylist()
    assert len({row["source"] for row in rows}) == 40
    first = rows[0]
    file = photos / first["source"]
    assert first["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (first["label"], first["split"]) == (file.parent.name, "train")
    assert (first["width"], first["height"]) == Image.open(file).size
    assert np.array_equal(dataset.images("train")[0], read_square(file.read_bytes(), 16))


def test_what_is_packed_is_what_serving_would_feed_the_network(photos):
    dataset = prepare(str(photos), size=24)
    packed = {image.tobytes() for split in dataset.info.counts for image in dataset.images(split)}
    files = [file for file in photos.rglob("*") if file.is_file()]
    assert packed == {read_square(file.read_bytes(), 24).tobytes() for file in files}


def test_the_same_folder_makes_no_version_and_a_changed_one_says_what_changed(photos, capsys):
    first = prepare(str(photos)).info.fingerprint
    assert prepare(str(photos), name="again").info.fingerprint == first
    assert prepare(str(photos)).info.reference == "photos@1"
    assert "nothing differs" in capsys.readouterr().err
    Image.effect_noise((20, 20), 60).convert("RGB").save(photos / "red/000.png")
    (photos / "blue/001.jpg").rename(photos / "red/moved.jpg")
    (photos / "blue/002.bmp").rename(photos / "blue/other.bmp")
    second = prepare(str(photos)).info
    assert (second.reference, second.fingerprint != first) == ("photos@2", True)
    told = capsys.readouterr().err
    for part in (
        "1 added (red/000.png)",
        "1 removed (red/000.png)",
        "1 relabelled (red/moved.jpg)",
        "1 moved (blue/other.bmp)",
    ):
        assert part in told


def test_modes_and_orientation_are_respected(tmp_path):
    source = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for label in ("left", "right"):
        (tmp_path / "modes" / label).mkdir(parents=True)
        for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"):
            image = Image.new("I;16", (40, 40), 40_000) if mode == "I;16" else source.convert(mode)
            image.save(tmp_path / "modes" / label / f"{mode.replace(';', '-')}.png")
        source.convert("CMYK").save(tmp_path / "modes" / label / "cmyk.jpg")
    half = Image.new("RGB", (40, 40), "black")
    half.paste("white", (0, 0, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 3  # to be turned by 180 degrees
    for index in range(40):
        half.save(tmp_path / "modes/left" / f"half{index}.png")
        half.save(tmp_path / "modes/right" / f"half{index}.png", exif=exif)
    dataset = prepare(str(tmp_path / "modes"), size=8)
    assert dataset.info.left_out == 0
    images, labels = dataset.images("train"), dataset.labels("train")
    halves = {(image[4, 0, 0], image[4, 7, 0], label) for image, label in zip(images, labels, strict=True)}
    assert {(255, 0, 0), (0, 255, 1)} <= halves
    assert not {(255, 0, 1), (0, 255, 0)} & halves


def left_out(dataset):
    return {row["source"]: (row["kind"], row["reason"]) for row in read_left_out(dataset).to_pylist()}


def test_unreadable_files_are_counted_listed_and_skipped(photos, capsys):
    photographs(photos / "green", (10, 200, 10), 120)
    (photos / "red/empty.png").touch()
    whole = (photos / "blue/001.jpg").read_bytes()
    (photos / "blue/truncated.jpg").write_bytes(whole[:-100])
    (photos / "blue/gone.jpg").symlink_to("nowhere.jpg")
    Image.new("1", (10_000, 10_000)).save(photos / "green/enormous.png")
    dataset = prepare(str(photos))
    reasons = left_out(dataset)
    assert set(reasons) == {"blue/gone.jpg", "blue/truncated.jpg", "green/enormous.png", "red/empty.png"}
    assert {kind for kind, _ in reasons.values()} == {"unreadable"}
    assert "No such file" in reasons["blue/gone.jpg"][1]
    assert "truncated" in reasons["blue/truncated.jpg"][1]
    assert "10000×10000" in reasons["green/enormous.png"][1]
    assert dataset.info.classes == ("blue", "green", "red")
    assert sum(dataset.info.counts.values()) == 160
    assert "skipped 4 of 164 files" in capsys.readouterr().err


def test_notes_and_litter_beside_the_images_are_ignored(photos):
    for index in range(20):
        (photos / f"red/{index:03}.json").write_text("{}")  # a sidecar for every image
    (photos / "blue/paper.pdf").write_bytes(b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n")
    for litter in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
        (photos / "red" / litter).write_text("litter")
    for folder in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        (photos / folder).mkdir()
        (photos / "red" / folder).mkdir()
        (photos / "red" / folder / "000.png").write_bytes((photos / "red/000.png").read_bytes())
    (photos / "README.md").write_text("beside the class folders")
    (photos / "red/picture.txt").write_bytes((photos / "red/000.png").read_bytes().replace(b"IEND", b"IEND"))
    dataset = prepare(str(photos))
    assert dataset.info.classes == ("blue", "red")
    assert sum(dataset.info.counts.values()) == 41, "content decides what an image is, not the name"
    assert len(left_out(dataset)) == 22
    assert {kind for kind, _ in left_out(dataset).values()} == {"ignored"}
    assert dataset.info.ignored == 10


@pytest.mark.timeout(60)
def test_only_regular_files_are_read(photos):
    """A FIFO without a writer would keep its reader waiting for ever."""
    os.mkfifo(photos / "red/pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(photos / "blue")  # a socket's path may have 107 characters
        try:
            listening.bind("socket.png")
        finally:
            os.chdir(here)
        dataset = prepare(str(photos))
    assert dataset.info.class_counts["train"] == (14, 14)
    assert left_out(dataset) == {
        "red/pipe.png": ("unreadable", "not a regular file"),
        "blue/socket.png": ("unreadable", "not a regular file"),
    }


def test_more_than_one_file_in_twenty_unreadable_is_an_error(photos):
    for index in range(2):
        (photos / f"red/text{index}.jpg").write_text("text")
    assert prepare(str(photos)).info.left_out == 2  # 2 of 42
    (photos / "red/text2.jpg").write_text("text")
    with pytest.raises(DataError, match=r"3 of 43 files are unreadable, more than 5%.*red/text0\.jpg"):
        prepare(str(photos), name="worse")
    assert [info.name for info in list_datasets()] == ["photos"]


def test_a_class_with_too_few_images_is_named(photos, tmp_path):
    photographs(photos / "rare", BLUE, 2)
    with pytest.raises(DataError, match=r"too few files in 1 classes: rare has 2\. At least 3 are needed"):
        prepare(str(photos))
    (photos / "rare/third.png").write_text("unreadable, so it does not count")
    with pytest.raises(DataError, match="too few readable images in 1 classes: rare has 2"):
        prepare(str(photos))
    photographs(tmp_path / "more", BLUE, 3)
    for file in (tmp_path / "more").iterdir():
        file.rename(photos / "rare" / f"more-{file.name}")
    assert prepare(str(photos)).info.class_counts["test"] == (2, 1, 2)


def test_three_images_of_each_class_are_enough(tmp_path, capsys):
    for index, name in enumerate(("red", "blue")):
        photographs(tmp_path / "few" / name, (200 * (1 - index), 20, 200 * index), 3)
    made = prepare(str(tmp_path / "few"), size=16).info
    assert made.counts == {"train": 2, "val": 2, "gate": 0, "test": 2}
    assert "warning: gate has no image" in capsys.readouterr().err


def test_a_class_that_vanished_is_told_as_one_that_stays(photos):
    prepare(str(photos), size=16)
    shutil.rmtree(photos / "red")
    with pytest.raises(DataError, match=r"no files of red, which the version before has.*--name"):
        prepare(str(photos), size=16)


def test_a_hostile_file_name_excludes_nothing_and_no_other_file(photos, tmp_path, capsys):
    innocent = sorted((photos / "red").iterdir())[0]
    digest = hashlib.sha256(innocent.read_bytes()).hexdigest()
    Image.new("RGB", (40, 40), (9, 9, 9)).save(photos / "red" / f"q\n{digest}  #\x1b[31m.png")
    dataset = prepare(str(photos), size=16)
    page = tmp_path / "check.html"
    checked = run_check(dataset.info.reference, model=None, folds=2, preset_name="none", output=page)
    assert any(finding.title == "Blank pictures" for finding in checked.findings)
    again = prepare(str(photos), size=16, exclude=checked.excluded)
    assert again.info.reference == dataset.info.reference, "nothing differs"
    assert "\x1b" not in capsys.readouterr().err + page.read_text() + checked.excluded.read_text()


def test_fewer_than_two_classes_are_an_error(tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"has 0 class folders with files \(none\)"):
        prepare(str(tmp_path / "bare"))
    photographs(tmp_path / "photos/only", RED, 5)
    with pytest.raises(DataError, match=r"has 1 class folders with files \(only\): make at least two"):
        prepare(str(tmp_path / "photos"))


def test_an_empty_class_folder_is_named_and_is_no_class(photos, capsys):
    (photos / "none").mkdir()
    assert prepare(str(photos)).info.classes == ("blue", "red")
    assert "none/ has no file: it is no class" in capsys.readouterr().err


def test_the_own_splits_of_a_folder_are_kept(tmp_path):
    for split, count in (("train", 10), ("valid", 4), ("gate", 5), ("Test", 3)):
        for label, colour in (("red", RED), ("blue", BLUE)):
            photographs(tmp_path / "own" / split / label, colour, count)
    dataset = prepare(str(tmp_path / "own"), size=20)
    assert dataset.info.class_counts == {"train": (10, 10), "val": (4, 4), "gate": (5, 5), "test": (3, 3)}
    tests = {read_square(file.read_bytes(), 20).tobytes() for file in (tmp_path / "own/Test").rglob("*.*")}
    assert {image.tobytes() for image in dataset.images("test")} == tests


def test_splits_may_have_other_usual_names(tmp_path):
    for split in ("Training", "Testing"):
        photographs(tmp_path / "Photos" / split / "red", RED, 10)
        photographs(tmp_path / "Photos" / split / "blue", BLUE, 10)
    made = prepare(str(tmp_path / "Photos")).info
    assert (made.classes, made.counts["test"]) == (("blue", "red"), 20)


def test_classes_within_classes_are_told(tmp_path, capsys):
    for year in ("2019", "2020"):
        photographs(tmp_path / "Photos" / year / "red", RED, 10)
        photographs(tmp_path / "Photos" / year / "blue", BLUE, 10)
    assert prepare(str(tmp_path / "Photos")).info.classes == ("2019", "2020")
    assert "holds the same folders (blue, red)" in capsys.readouterr().err
    leaf = prepare(str(tmp_path / "Photos"), name="leaf", labels="leaf").info
    assert (leaf.classes, sum(leaf.counts.values())) == (("blue", "red"), 40)
    path = prepare(str(tmp_path / "Photos"), name="path", labels="path").info
    assert path.classes == ("2019/blue", "2019/red", "2020/blue", "2020/red")


def test_a_missing_validation_split_is_taken_out_of_train(tmp_path, capsys):
    for split, count in (("train", 18), ("test", 5)):
        for label, colour in (("red", RED), ("blue", BLUE)):
            photographs(tmp_path / "own" / split / label, colour, count)
    made = prepare(str(tmp_path / "own")).info
    assert made.class_counts == {"train": (14, 14), "val": (2, 2), "gate": (2, 2), "test": (5, 5)}
    assert "val/ and gate/ missing: each is made of 10% of train/" in capsys.readouterr().err


def test_a_layout_that_is_neither_is_an_error(photos):
    for split in ("train", "test"):
        photographs(photos / split / "red", RED, 5)
    with pytest.raises(DataError, match="holds blue, red, test, train: it must hold only class folders"):
        prepare(str(photos))


def test_a_class_that_is_only_in_test_is_named(tmp_path):
    for label in ("train/red", "train/blue", "test/red", "test/blue", "test/green"):
        photographs(tmp_path / "own" / label, RED, 5)
    with pytest.raises(DataError, match="train has no image of class green"):
        prepare(str(tmp_path / "own"))


PREPARE = """
import signal, sys
from raycls.data import ingest, parts
from raycls.data.prepare import prepare

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
ingest.TASK_FILES = 64
parts.PART_BYTES = 0  # every chunk is written at once
flush = parts.Parts.flush
def tell(self):
    flush(self)
    print("written", flush=True)
    sys.stdin.readline()
parts.Parts.flush = tell
prepare(sys.argv[1], size=16)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_preparation_goes_on_where_it_was(photos, how, capsys):
    photographs(photos / "green", (10, 200, 10), 160)
    child = subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(photos)],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "written\n"
        child.send_signal(how)
        child.communicate(timeout=30)
        assert child.returncode != 0
    finally:
        child.kill()
    assert list_datasets() == []
    dataset = prepare(str(photos), size=16)
    assert (
        "64 of 200 images were decoded before the last preparation was interrupted" in capsys.readouterr().err
    )
    assert sum(dataset.info.counts.values()) == 200
    assert sorted(path.name for path in (places.datasets() / "photos").iterdir()) == [".last", "1"]
    assert prepare(str(photos), name="again", size=16).info.fingerprint == dataset.info.fingerprint


def test_what_is_added_three_times_moves_no_image_to_another_split(photos, tmp_path):
    """And no group straddles: every tenth image that is added is a copy of an earlier one, saved again."""
    photographs(photos / "green", (10, 200, 10), 60)
    splits, groups = {}, {}
    random = np.random.default_rng(0)
    for addition in range(4):
        dataset = prepare(str(photos), size=32)
        rows = read_rows(dataset).to_pylist()
        assert dataset.info.version == addition + 1
        for row in rows:
            assert splits.setdefault(row["sha256"], row["split"]) == row["split"]
            assert groups.setdefault(row["group"], row["split"]) == row["split"]
        files = sorted(file for file in photos.rglob("*") if file.is_file())
        for index, file in enumerate(random.choice(files, 10, replace=False)):
            pixels = random.normal((90, 90, 90), 60, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            image = Image.open(file).convert("RGB") if index % 2 else Image.fromarray(pixels)
            image.save(file.parent / f"added-{addition}-{index}.jpg", quality=90)


def test_an_image_that_comes_back_has_its_former_split_and_a_forgotten_one_stays_away(photos):
    def rows():
        return {row["source"]: row for row in read_rows(prepare(str(photos), size=16)).to_pylist()}

    first = rows()
    held_out = [name for name, row in first.items() if row["split"] == "test"]
    kept = {name: (photos / name).read_bytes() for name in held_out}
    for name in held_out:
        (photos / name).unlink()
    photographs(photos / "green", (10, 200, 10), 20)
    assert not set(held_out) & set(rows())
    for name, data in kept.items():
        (photos / name).write_bytes(data)
    third = rows()
    assert {third[name]["split"] for name in held_out} == {"test"}
    forget(first["red/001.jpg"]["sha256"])
    photographs(photos / "brown", (120, 90, 10), 20)
    dataset = prepare(str(photos), size=16)
    assert "red/001.jpg" not in read_rows(dataset)["source"].to_pylist()
    assert left_out(dataset) == {"an image": ("forgotten", "by a person")}


def test_a_list_of_images_is_left_out_until_there_is_another_list(photos, tmp_path):
    first = prepare(str(photos), size=16)
    digest = read_rows(first).filter(pc.equal(read_rows(first)["source"], "red/001.jpg"))["sha256"][0].as_py()
    exclude = tmp_path / "exclude.txt"
    exclude.write_text(f"# two of them\n{digest}  # red/001.jpg: looks blue\nblue/002.bmp\n#red/003.webp\n")
    second = prepare(str(photos), exclude=exclude)
    gone = {"red/001.jpg": ("excluded", "by a person"), "blue/002.bmp": ("excluded", "by a person")}
    assert (second.info.version, left_out(second)) == (2, gone)
    photographs(photos / "green", (10, 200, 10), 20)
    assert left_out(prepare(str(photos))) == gone
    exclude.write_text("")
    assert left_out(prepare(str(photos), exclude=exclude)) == {}
    with pytest.raises(UsageError, match=r"--exclude nowhere\.txt cannot be read"):
        prepare(str(photos), exclude=Path("nowhere.txt"))


def test_images_of_a_dataset_from_before_there_were_versions_keep_their_splits(photos):
    """It has three splits, no rows, and lies in the dataset's own folder."""
    first = prepare(str(photos), size=16)
    where = {row["source"]: row["split"] for row in read_rows(first).to_pylist()}
    folder = first.path.parent
    content = json.loads((first.path / "dataset.json").read_text())
    for split in ("train", "val", "test"):
        (first.path / split).rename(folder / split)
    for field in ("version", "resize", "options", "left_out", "ignored", "former_fingerprints"):
        del content[field]
    for field in ("counts", "class_counts"):
        del content[field]["gate"]
    content["sha256"] = {file: digest for file, digest in content["sha256"].items() if "gate" not in file}
    parts = [sorted(content["sha256"].items()), content["classes"], content["image_size"]]
    content["fingerprint"] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(content))
    shutil.rmtree(first.path)
    photographs(photos / "green", (10, 200, 10), 20)
    second = prepare(str(photos))
    assert (second.info.reference, second.info.image_size) == ("photos@2", 16)
    now = {row["source"]: row["split"] for row in read_rows(second).to_pylist()}
    assert {name: now[name] for name, split in where.items() if split != "gate"} == {
        name: split for name, split in where.items() if split != "gate"
    }


def test_the_users_groups_stay_whole_and_cannot_change(photos):
    dataset = prepare(str(photos), group_by=r"/\d\d(\d)\.")
    by_group = {}
    for row in read_rows(dataset).to_pylist():
        by_group.setdefault(Path(row["source"]).stem[-1], set()).add(row["split"])
    assert len(by_group) == 10
    assert all(len(splits) == 1 for splits in by_group.values())
    with pytest.raises(UsageError, match="--name for other groups"):
        prepare(str(photos), group_by="other")
    photographs(photos / "green", (10, 200, 10), 20)
    assert prepare(str(photos)).info.options["group_by"] == r"/\d\d(\d)\."


def test_copies_that_straddle_the_source_s_own_splits_are_told(tmp_path, capsys):
    for split, count in (("train", 12), ("test", 4)):
        for label, colour in (("red", RED), ("blue", BLUE)):
            photographs(tmp_path / "own" / split / label, colour, count)
    copy = (tmp_path / "own/train/red/003.webp").read_bytes()
    (tmp_path / "own/test/red/copy.webp").write_bytes(copy)
    (tmp_path / "own/train/blue/wrong.webp").write_bytes(copy)
    prepare(str(tmp_path / "own"))
    told = " ".join(capsys.readouterr().err.split())
    assert "images are also in another split, or almost" in told
    assert "test/red/copy.webp" in told
    assert "images have two labels" in told


def test_an_archive_that_was_unpacked_into_a_folder_of_its_name(photos, tmp_path):
    (tmp_path / "pets").mkdir()
    photos.rename(tmp_path / "pets/pets")
    assert prepare(str(tmp_path / "pets")).info.classes == ("blue", "red")


def test_links_are_followed_and_loops_are_not(photos, tmp_path):
    photographs(tmp_path / "elsewhere", (10, 200, 10), 6)
    (photos / "green").symlink_to(tmp_path / "elsewhere")
    (photos / "red/loop").symlink_to("..")
    (photos / "red/more").mkdir()
    (photos / "red/more/back").symlink_to("../more")
    dataset = prepare(str(photos))
    assert dataset.info.classes == ("blue", "green", "red")
    assert sum(dataset.info.counts.values()) == 46
    assert {kind for kind, _ in left_out(dataset).values()} == {"ignored"}


def test_options_that_are_left_out_are_as_before(photos):
    first = prepare(str(photos), size=24, resize="pad", mirror=False, shares=(0.6, 0.2, 0.1, 0.1)).info
    photographs(photos / "green", (10, 200, 10), 20)
    second = prepare(str(photos)).info
    assert (second.image_size, second.resize, second.mirrorable, second.options) == (
        24,
        "pad",
        False,
        first.options,
    )
    assert second.classes == ("blue", "red", "green"), "a class keeps its index"
    assert second.class_counts["train"][2] == 12


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "csv", "parquet", "webdataset"])
def test_every_kind_of_source_gives_the_same_images(photos, tmp_path, kind):
    files = sorted(file for file in photos.rglob("*") if file.is_file())
    names = [str(file.relative_to(photos)) for file in files]
    labels = [file.parent.name for file in files]
    source = tmp_path / f"pets.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for file, name in zip(files, names, strict=True):
                archive.write(file, name)
    elif kind.startswith("tar"):
        with tarfile.open(source, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(photos, "photos")
    elif kind == "csv":
        rows = [f"{file},{label}" for file, label in zip(files, labels, strict=True)]
        source.write_text("\n".join(["path,label", *rows]) + "\n")
    elif kind == "parquet":
        table = pa.table({"bytes": [file.read_bytes() for file in files], "label": labels})
        pq.write_table(table, source, row_group_size=7)
    else:
        source.mkdir()
        with tarfile.open(source / "000.tar", "w") as archive:
            for index, (file, label) in enumerate(zip(files, labels, strict=True)):
                archive.add(file, f"{index:03}{file.suffix}")
                member = tarfile.TarInfo(f"{index:03}.cls")
                member.size = len(label)
                archive.addfile(member, io.BytesIO(label.encode()))
    expected = prepare(str(photos), name="expected", size=16)
    dataset = prepare(str(source), name="found", size=16)
    assert dataset.info.fingerprint == expected.info.fingerprint


@pytest.mark.skipif(not EMOTIONS.is_dir(), reason="the photographs beside the checkout are not there")
def test_real_photographs():
    dataset = prepare(str(EMOTIONS), size=64)
    made = dataset.info
    assert made.classes == ("angry", "fear", "happy", "sad", "surprise")
    totals = np.sum(list(made.class_counts.values()), axis=0).tolist()
    assert totals == [202, 17, 500, 214, 295]
    assert made.left_out == 0
    assert min(made.class_counts["test"]) >= 1
