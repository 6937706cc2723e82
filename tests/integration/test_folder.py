"""Folders of real image files through `prepare`, decoded by a real Ray."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from raycls import home as places
from raycls.data.packed import list_datasets
from raycls.data.sources import prepare
from raycls.data.transforms import decode, to_square
from raycls.errors import DataError

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
    made = dataset.manifest
    assert (made.name, made.classes, made.image_size) == ("photos", ("blue", "red"), 16)
    assert made.class_counts == {"train": (14, 14), "val": (4, 4), "test": (2, 2)}
    assert (made.mirrorable, made.skipped, made.source) == (True, (), str(photos))
    for split in made.counts:
        reds = dataset.images(split)[..., 0].mean(axis=(1, 2)) > 100
        assert np.array_equal(reds, dataset.labels(split) == 1)
    dataset.verify()


def test_what_is_packed_is_what_serving_would_feed_the_network(photos):
    dataset = prepare(str(photos), size=24)
    packed = {image.tobytes() for split in dataset.manifest.counts for image in dataset.images(split)}
    files = [file for file in photos.rglob("*") if file.is_file()]
    assert packed == {to_square(decode(file.read_bytes()), 24).tobytes() for file in files}


def test_the_same_folder_gives_the_same_fingerprint_and_a_changed_one_another(photos):
    first = prepare(str(photos)).manifest.fingerprint
    assert prepare(str(photos), name="again").manifest.fingerprint == first
    Image.new("RGB", (20, 20), RED).save(photos / "red/000.png")
    assert prepare(str(photos), force=True).manifest.fingerprint != first


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
    assert dataset.manifest.skipped == ()
    images, labels = dataset.images("train"), dataset.labels("train")
    halves = {(image[4, 0, 0], image[4, 7, 0], label) for image, label in zip(images, labels, strict=True)}
    assert {(255, 0, 0), (0, 255, 1)} <= halves
    assert not {(255, 0, 1), (0, 255, 0)} & halves


def test_unreadable_files_are_counted_listed_and_skipped(photos, capsys):
    photographs(photos / "green", (10, 200, 10), 120)
    (photos / "red/notes.txt").write_text("not an image")
    (photos / "red/empty.png").touch()
    (photos / "blue/paper.pdf").write_bytes(b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n")
    whole = (photos / "blue/001.jpg").read_bytes()
    (photos / "blue/truncated.jpg").write_bytes(whole[:-100])
    (photos / "blue/gone.jpg").symlink_to("nowhere.jpg")
    Image.new("1", (10_000, 10_000)).save(photos / "green/enormous.png")
    (photos / "green/.DS_Store").write_text("hidden: ignored")
    (photos / ".cache/thumbnails").mkdir(parents=True)
    (photos / "README.md").write_text("beside the class folders: ignored")
    made = prepare(str(photos)).manifest
    reasons = {file.path: file.reason for file in made.skipped}
    assert list(reasons) == [
        "blue/gone.jpg",
        "blue/paper.pdf",
        "blue/truncated.jpg",
        "green/enormous.png",
        "red/empty.png",
        "red/notes.txt",
    ]
    assert "No such file" in reasons["blue/gone.jpg"]
    assert "truncated" in reasons["blue/truncated.jpg"]
    assert "10000×10000" in reasons["green/enormous.png"]
    assert "not an image" in reasons["red/notes.txt"]
    assert made.classes == ("blue", "green", "red")
    assert sum(made.counts.values()) == 160
    assert "skipped 6 of 166 files" in capsys.readouterr().err


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
        made = prepare(str(photos)).manifest
    assert made.class_counts["train"] == (14, 14)
    assert {(file.path, file.reason) for file in made.skipped} == {
        ("red/pipe.png", "not a regular file"),
        ("blue/socket.png", "not a regular file"),
    }


def test_more_than_one_file_in_twenty_unreadable_is_an_error(photos):
    for index in range(2):
        (photos / f"red/text{index}.jpg").write_text("text")
    assert len(prepare(str(photos)).manifest.skipped) == 2  # 2 of 42
    (photos / "red/text2.jpg").write_text("text")
    with pytest.raises(DataError, match=r"3 of 43 files are unreadable, more than 5%.*red/text0\.jpg"):
        prepare(str(photos), name="worse")
    assert [manifest.name for manifest in list_datasets()] == ["photos"]


def test_a_class_with_too_few_images_is_named(photos):
    photographs(photos / "rare", BLUE, 2)
    with pytest.raises(DataError, match="class rare has 2 readable images, but at least 3 are needed"):
        prepare(str(photos))
    (photos / "rare/third.png").write_text("unreadable, so it does not count")
    with pytest.raises(DataError, match="class rare has 2 readable images"):
        prepare(str(photos))
    (photos / "rare/third.png").write_bytes((photos / "rare/000.png").read_bytes())
    assert prepare(str(photos)).manifest.class_counts["test"] == (2, 1, 2)


def test_fewer_than_two_classes_are_an_error(tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"has 0 class folders \(none\)"):
        prepare(str(tmp_path / "bare"))
    photographs(tmp_path / "photos/only", RED, 5)
    with pytest.raises(DataError, match=r"has 1 class folders \(only\): make at least two"):
        prepare(str(tmp_path / "photos"))
    (tmp_path / "photos/none").mkdir()
    with pytest.raises(DataError, match="class none has 0 readable images"):
        prepare(str(tmp_path / "photos"))


def test_the_own_splits_of_a_folder_are_kept(tmp_path):
    for split, count in (("train", 10), ("valid", 4), ("Test", 3)):
        for label, colour in (("red", RED), ("blue", BLUE)):
            photographs(tmp_path / "own" / split / label, colour, count)
    dataset = prepare(str(tmp_path / "own"), size=20)
    assert dataset.manifest.class_counts == {"train": (10, 10), "val": (4, 4), "test": (3, 3)}
    tests = {
        to_square(decode(file.read_bytes()), 20).tobytes() for file in (tmp_path / "own/Test").rglob("*.*")
    }
    assert {image.tobytes() for image in dataset.images("test")} == tests


def test_splits_may_have_other_usual_names(tmp_path):
    for split in ("Training", "Testing"):
        photographs(tmp_path / "Photos" / split / "red", RED, 10)
        photographs(tmp_path / "Photos" / split / "blue", BLUE, 10)
    made = prepare(str(tmp_path / "Photos")).manifest
    assert (made.classes, made.counts["test"]) == (("blue", "red"), 20)


def test_classes_within_classes_are_told(tmp_path, capsys):
    for year in ("2019", "2020"):
        photographs(tmp_path / "Photos" / year / "red", RED, 10)
        photographs(tmp_path / "Photos" / year / "blue", BLUE, 10)
    assert prepare(str(tmp_path / "Photos")).manifest.classes == ("2019", "2020")
    assert (
        "(2019, 2020) holds the same folders (blue, red): their images belong to" in capsys.readouterr().err
    )


def test_a_missing_validation_split_is_taken_out_of_train(tmp_path, capsys):
    for split, count in (("train", 18), ("test", 5)):
        for label, colour in (("red", RED), ("blue", BLUE)):
            photographs(tmp_path / "own" / split / label, colour, count)
    made = prepare(str(tmp_path / "own")).manifest
    assert made.class_counts == {"train": (14, 14), "val": (4, 4), "test": (5, 5)}
    assert "val/ is empty: 22% of train/ is used for it" in capsys.readouterr().err


def test_a_layout_that_is_neither_is_an_error(photos):
    for split in ("train", "test"):
        photographs(photos / split / "red", RED, 5)
    with pytest.raises(DataError, match="holds blue, red, test, train: it must hold only class folders"):
        prepare(str(photos))


def test_a_class_that_is_only_in_test_is_named(tmp_path):
    for label in ("train/red", "train/blue", "test/red", "test/blue", "test/green"):
        photographs(tmp_path / "own" / label, RED, 5)
    with pytest.raises(DataError, match="class green has 0 readable images in train/"):
        prepare(str(tmp_path / "own"))


def test_ctrl_c_in_the_middle_of_decoding_leaves_nothing(photos):
    os.mkfifo(photos / "red/999.png")  # reading it never ends: the preparation stays where it is
    child = subprocess.Popen(
        [sys.executable, "-c", f"from raycls.data.sources import prepare; prepare({str(photos)!r}, size=16)"],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in child.stderr:
            if line.startswith("decoding 41 images"):
                break
        assert (places.datasets() / ".photos.tmp/decoded.npy").exists()
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
        assert child.returncode != 0
    finally:
        child.kill()
    assert [path.name for path in places.datasets().iterdir()] == [".photos.lock"]


@pytest.mark.skipif(not EMOTIONS.is_dir(), reason="the photographs beside the checkout are not there")
def test_real_photographs():
    dataset = prepare(str(EMOTIONS), size=64)
    made = dataset.manifest
    assert made.classes == ("angry", "fear", "happy", "sad", "surprise")
    totals = np.sum(list(made.class_counts.values()), axis=0).tolist()
    assert totals == [202, 17, 500, 214, 295]
    assert made.skipped == ()
    assert min(made.class_counts["test"]) >= 1
