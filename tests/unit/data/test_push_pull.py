from pathlib import Path

import numpy as np
import pytest

from raycls.data import push_pull
from raycls.data.packed import list_datasets, open_dataset
from raycls.errors import DataError, UnknownDatasetError, UsageError
from tests.unit.data import shapes

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "storage"))
    return tmp_path / "storage" / "datasets"


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Switch to an empty home, as on another machine."""
    return lambda name="other": monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / name))


def test_another_machine_opens_what_was_pushed(storage, another_machine):
    pushed = shapes.make()
    push_pull.push(pushed)
    another_machine()
    taken = open_dataset("shapes")
    assert taken.manifest == pushed.manifest
    assert taken.path != pushed.path
    assert np.array_equal(taken.images("val"), pushed.images("val"))
    assert [manifest.name for manifest in list_datasets()] == ["shapes"]
    with pytest.raises(UnknownDatasetError, match="prepared so far: shapes"):
        open_dataset("circles")


def test_a_dataset_that_is_pushed_again_replaces_the_former_one(storage, another_machine):
    push_pull.push(shapes.make())
    another_machine("second")
    second = shapes.make(pixels=255 - shapes.PIXELS)
    push_pull.push(second)
    push_pull.push(second)
    assert len(list(storage.iterdir())) == 2, "the arrays of the former dataset must be deleted"
    another_machine("third")
    assert open_dataset("shapes").manifest == second.manifest


def test_a_node_takes_a_dataset_that_is_not_where_the_driver_has_it(storage, another_machine):
    pushed = shapes.make()
    assert pushed.here() is pushed
    push_pull.push(pushed)
    pushed.path.rename(pushed.path.with_name("elsewhere"))
    another_machine()
    expected = shapes.LABELS[shapes.PARTS["train"]]
    assert np.array_equal(pushed.here().labels("train"), expected)


def test_a_node_without_the_dataset_says_how_it_gets_there(another_machine, tmp_path):
    dataset = shapes.make()
    dataset.path.rename(tmp_path / "elsewhere")
    with pytest.raises(
        DataError, match="RAYCLS_STORAGE to a path that all nodes share, and run `raycls data push shapes`"
    ):
        dataset.here()


def test_a_dataset_damaged_on_the_storage_path_is_refused(storage, another_machine):
    push_pull.push(shapes.make())
    (images,) = storage.glob("shapes-*/val/images.npy")
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    another_machine()
    with pytest.raises(DataError, match=r"val/images.npy does not have the SHA-256"):
        open_dataset("shapes")
    assert list_datasets() == []
    (storage / "shapes.json").write_text("{}")
    with pytest.raises(DataError, match=r"shapes.json on the storage path is not a manifest"):
        open_dataset("shapes")


def test_pushing_needs_a_storage_path(tmp_path, monkeypatch):
    dataset = shapes.make()
    with pytest.raises(UsageError, match="RAYCLS_STORAGE is not set"):
        push_pull.push(dataset)
    monkeypatch.setenv("RAYCLS_STORAGE", "nonsense://x")
    with pytest.raises(DataError, match="is not a storage path"):
        push_pull.push(dataset)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot push shapes"):
        push_pull.push(dataset)
