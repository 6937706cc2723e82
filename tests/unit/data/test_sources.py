import numpy as np
import pytest

from raycls import home as places
from raycls.data.packed import list_datasets, open_dataset
from raycls.data.sources import prepare
from raycls.errors import UsageError
from tests.unit.data import shapes

pytestmark = pytest.mark.usefixtures("home")


def test_digits_are_all_there_upright_and_seeded():
    from sklearn.datasets import load_digits

    dataset = prepare("digits")
    made = dataset.manifest
    assert (made.name, made.image_size, made.mirrorable) == ("digits", 8, False)
    assert made.counts == {"train": 1259, "val": 359, "test": 179}
    packed = {
        (image[..., channel].tobytes(), label)
        for split in made.counts
        for image, label in zip(dataset.images(split), dataset.labels(split), strict=True)
        for channel in range(3)
    }
    original = load_digits()
    scaled = np.round(original.images / 16 * 255).astype(np.uint8)
    assert packed == {(image.tobytes(), label) for image, label in zip(scaled, original.target, strict=True)}
    assert prepare("digits", force=True).manifest.fingerprint == made.fingerprint


def test_a_dataset_that_exists_is_returned_as_it_is_unless_forced(capsys):
    first = prepare("digits")
    inode = first.path.stat().st_ino
    assert prepare("digits") == first
    assert "already prepared" in capsys.readouterr().err
    assert first.path.stat().st_ino == inode
    assert prepare("digits", force=True).path.stat().st_ino != inode


def test_a_damaged_dataset_can_be_prepared_again():
    manifest = prepare("digits").path / "manifest.json"
    manifest.write_text("{}")
    prepare("digits", force=True)
    open_dataset("digits").verify()


@pytest.mark.parametrize(
    ("source", "options", "complaint"),
    [
        ("digits", {"size": 16}, "--size and --name are for folders"),
        ("cifar10", {"name": "mine"}, "--size and --name are for folders"),
        ("digits", {"root": "."}, "--root"),
        ("cifar100", {}, "cifar100 does not exist: a source is cifar10, digits or the path of a folder"),
        ("FOLDER/file.txt", {}, "is a file, not a folder"),
        ("FOLDER", {"size": 4}, "--size 4 is out of range: from 8 to 1024"),
        ("FOLDER", {"size": 5000}, "--size 5000 is out of range"),
        ("FOLDER", {"name": "cifar10"}, "the name cifar10 belongs to the built-in dataset"),
        ("FOLDER", {"name": "a/b"}, "cannot name a dataset"),
        (
            "FOLDER",
            {"name": "shapes"},
            "the dataset shapes already exists, from a test at 8 pixels.*--name.*--force",
        ),
    ],
)
def test_wrong_use_is_reported_and_makes_nothing(tmp_path, source, options, complaint):
    shapes.make()
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "file.txt").write_text("text")
    with pytest.raises(UsageError, match=complaint):
        prepare(source.replace("FOLDER", str(folder)), **options)
    assert [manifest.name for manifest in list_datasets()] == ["shapes"]
    assert not list(places.datasets().glob(".*.tmp"))
