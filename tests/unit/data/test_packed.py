import json
import pickle

import numpy as np
import pytest

from raycls.data.manifest import read_left_out, read_rows
from raycls.data.packed import INFO, LEFT_OUT, ROWS, SPLITS, arrays_of
from raycls.data.versions import list_datasets, open_dataset
from raycls.errors import DataError, UnknownDatasetError
from tests.unit.data import shapes

pytestmark = pytest.mark.usefixtures("home")


def test_what_was_written_is_what_is_read():
    shapes.make()
    dataset = open_dataset("shapes")
    assert np.array_equal(dataset.images("val"), shapes.PIXELS[20:24])
    assert np.array_equal(dataset.labels("test"), shapes.LABELS[26:])
    assert dataset.labels("train").dtype == np.int64
    assert dataset.info.counts == {"train": 20, "val": 4, "gate": 2, "test": 4}
    assert dataset.info.class_counts["val"] == (2, 2)
    assert dataset.info.image_size == shapes.SIDE
    assert (dataset.info.reference, dataset.info.left_out) == ("shapes@1", 1)
    assert read_left_out(dataset)["source"].to_pylist() == ["circle/notes.txt"]
    rows = read_rows(dataset)
    assert rows["split"].to_pylist() == [
        split for split, count in dataset.info.counts.items() for _ in range(count)
    ]
    assert rows["label"].to_pylist()[20:24] == [shapes.CLASSES[label] for label in dataset.labels("val")]
    dataset.verify()


def test_images_are_mapped_and_cannot_be_changed():
    images = shapes.make().images("train")
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_a_dataset_travels_without_its_arrays():
    dataset = shapes.make()
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 5000
    assert np.array_equal(copy.images("train"), dataset.images("train"))


def test_the_fingerprint_changes_with_one_byte_and_with_the_classes_and_with_nothing_else():
    original = shapes.make().info.fingerprint
    assert shapes.make("again").info.fingerprint == original
    changed = shapes.PIXELS.copy()
    changed[29, 7, 7, 2] ^= 1
    assert shapes.make("byte", changed).info.fingerprint != original
    assert shapes.make("names", classes=("square", "circle")).info.fingerprint != original


@pytest.mark.parametrize("file", [*arrays_of(SPLITS), ROWS, LEFT_OUT])
def test_verify_names_the_file_with_a_wrong_byte(file):
    path = shapes.make().path / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"shapes@1 is damaged: {file}"):
        open_dataset("shapes").verify()


def test_a_label_of_no_class_is_damage():
    path = shapes.make().path / "train/labels.npy"
    labels = np.load(path)
    labels[3] = 77
    np.save(path, labels)
    with pytest.raises(DataError, match=r"shapes@1 is damaged: train/labels.npy has labels of no class"):
        open_dataset("shapes")


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
def test_a_description_that_was_edited_is_reported(change):
    file = shapes.make().path / INFO
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match="shapes@1 is damaged"):
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
    (shapes.make("broken").path / INFO).write_text("{}")
    assert [info.name for info in list_datasets()] == ["whole"]
    assert "broken@1 is damaged" in capsys.readouterr().err
