import json
import pickle

import numpy as np
import pytest

from raycls.data.packed import ARRAYS, list_datasets, open_dataset
from raycls.errors import DataError, UnknownDatasetError
from tests.unit.data import shapes

pytestmark = pytest.mark.usefixtures("home")


def test_what_was_written_is_what_is_read():
    shapes.make()
    dataset = open_dataset("shapes")
    assert np.array_equal(dataset.images("val"), shapes.PIXELS[20:26])
    assert np.array_equal(dataset.labels("test"), shapes.LABELS[26:])
    assert dataset.labels("train").dtype == np.int64
    assert dataset.manifest.counts == {"train": 20, "val": 6, "test": 4}
    assert dataset.manifest.class_counts["val"] == (3, 3)
    assert dataset.manifest.image_size == shapes.SIDE
    assert dataset.manifest.skipped[0].path == "circle/notes.txt"
    dataset.verify()


def test_images_are_mapped_and_cannot_be_changed():
    images = shapes.make().images("train")
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_a_dataset_travels_without_its_arrays():
    dataset = shapes.make()
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 4000
    assert np.array_equal(copy.images("train"), dataset.images("train"))


def test_the_fingerprint_changes_with_one_byte_and_with_the_classes_and_with_nothing_else():
    original = shapes.make().manifest.fingerprint
    assert shapes.make("again").manifest.fingerprint == original
    changed = shapes.PIXELS.copy()
    changed[29, 7, 7, 2] ^= 1
    assert shapes.make("byte", changed).manifest.fingerprint != original
    assert shapes.make("names", classes=("square", "circle")).manifest.fingerprint != original


@pytest.mark.parametrize("array", ARRAYS)
def test_verify_names_the_file_with_a_wrong_byte(array):
    path = shapes.make().path / array
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"shapes is damaged: {array}"):
        open_dataset("shapes").verify()


def test_an_array_cut_short_or_missing_is_reported_at_once():
    path = shapes.make().path
    images = path / "train/images.npy"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train/images\.npy.*--force"):
        open_dataset("shapes")
    images.unlink()
    with pytest.raises(DataError, match=r"train/images\.npy: .*No such file"):
        open_dataset("shapes")


def test_an_array_of_another_shape_is_reported_at_once():
    np.save(shapes.make().path / "val/labels.npy", np.zeros(5, np.int64))
    with pytest.raises(DataError, match=r"val/labels\.npy is int64 \(5,\)"):
        open_dataset("shapes")


@pytest.mark.parametrize("change", [{"classes": ["a", "b"]}, {"fingerprint": "0" * 64}, {"counts": 3}])
def test_a_manifest_that_was_edited_is_reported(change):
    file = shapes.make().path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_dataset("shapes")


def test_an_unknown_dataset_names_those_that_exist_and_the_command():
    with pytest.raises(UnknownDatasetError, match=r"prepared so far: none.*raycls data prepare"):
        open_dataset("shapes")
    shapes.make("one")
    shapes.make("two")
    for name in ("three", "../one", "", "."):
        with pytest.raises(UnknownDatasetError, match="prepared so far: one, two"):
            open_dataset(name)


def test_the_list_leaves_out_a_damaged_dataset_and_says_so(capsys):
    assert list_datasets() == []
    shapes.make("whole")
    (shapes.make("broken").path / "manifest.json").unlink()
    assert [manifest.name for manifest in list_datasets()] == ["whole"]
    assert "broken is damaged" in capsys.readouterr().err
