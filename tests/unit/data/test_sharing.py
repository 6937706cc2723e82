import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from raycls.data import sharing
from raycls.data.forget import forget
from raycls.data.manifest import read_rows
from raycls.data.packed import INFO
from raycls.data.versions import list_datasets, on_this_node, open_by_fingerprint, open_dataset
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
    assert sharing.push(pushed).endswith("datasets/shapes/1")
    another_machine()
    taken = open_dataset("shapes")
    assert taken.info == pushed.info
    assert taken.path != pushed.path
    assert np.array_equal(taken.images("val"), pushed.images("val"))
    assert [info.reference for info in list_datasets()] == ["shapes@1"]
    with pytest.raises(UnknownDatasetError, match="prepared so far: shapes"):
        open_dataset("circles")
    with pytest.raises(UnknownDatasetError, match="no dataset shapes@2"):
        open_dataset("shapes@2")


def test_versions_are_pushed_and_pulled_one_by_one(storage, another_machine):
    first, second = shapes.make(), shapes.make(pixels=255 - shapes.PIXELS)
    sharing.push(first)
    sharing.push(second)
    sharing.push(second)
    another_machine("newest")
    assert open_dataset("shapes").info == second.info
    assert open_dataset("shapes@1").info == first.info
    another_machine("older")
    assert sharing.pull("shapes", 1)
    assert open_dataset("shapes").info == first.info, (
        "what is here is opened without a look at the storage path"
    )
    assert sharing.pull("shapes")
    assert open_dataset("shapes").info == second.info
    assert not sharing.pull("shapes", 3)
    another_machine("by its fingerprint")
    assert open_by_fingerprint("shapes", second.info.fingerprint).info == second.info


def test_a_version_that_is_still_being_pushed_is_not_pulled(storage, another_machine):
    sharing.push(shapes.make())
    second = shapes.make(pixels=255 - shapes.PIXELS)
    sharing.push(second)
    (storage / "shapes/2" / INFO).unlink()  # it is written last
    another_machine()
    assert open_dataset("shapes").info.version == 1


def test_other_data_under_the_same_reference_is_refused(storage, another_machine):
    sharing.push(shapes.make())
    another_machine()
    with pytest.raises(UsageError, match=r"has another shapes@1 .*--name"):
        sharing.push(shapes.make(pixels=255 - shapes.PIXELS))


def test_a_node_takes_a_dataset_that_is_not_where_the_driver_has_it(storage, another_machine):
    pushed = shapes.make()
    assert on_this_node(pushed) == pushed
    sharing.push(pushed)
    pushed.path.rename(pushed.path.with_name("elsewhere"))
    another_machine()
    expected = shapes.LABELS[shapes.PARTS["train"]]
    assert np.array_equal(on_this_node(pushed).labels("train"), expected)


def test_a_node_with_stale_data_refuses_to_train_on_it(another_machine):
    wanted = shapes.make()
    another_machine()
    shapes.make(pixels=255 - shapes.PIXELS)
    elsewhere = dataclasses.replace(wanted, path=Path("/nowhere/on/this/node"))
    with pytest.raises(
        DataError, match=r"has another dataset shapes@1 .*raycls data remove shapes@1 --force"
    ):
        on_this_node(elsewhere)
    stale = dataclasses.replace(wanted, info=wanted.info.model_copy(update={"fingerprint": "0" * 64}))
    with pytest.raises(DataError, match="has another dataset shapes@1"):
        on_this_node(stale)


def test_a_node_that_still_has_what_was_forgotten_renews_its_copy(storage, another_machine, tmp_path, capsys):
    pushed = shapes.make()
    sharing.push(pushed)
    another_machine()
    assert sharing.pull("shapes", 1)
    another_machine("home")  # the first one
    sha256 = read_rows(pushed)["sha256"][0].as_py()
    assert forget(sha256) == ["shapes@1"]
    renewed = open_dataset("shapes@1")
    assert renewed.info.fingerprint != pushed.info.fingerprint
    another_machine()
    found = on_this_node(dataclasses.replace(renewed, path=Path("/nowhere/on/this/node")))
    assert found.info.fingerprint == renewed.info.fingerprint
    assert found.path.is_relative_to(tmp_path / "other")
    assert sha256 not in read_rows(found)["sha256"].to_pylist()
    assert "it is renewed" in capsys.readouterr().err


def test_a_node_without_the_dataset_says_how_it_gets_there(another_machine, tmp_path):
    dataset = dataclasses.replace(shapes.make(), path=tmp_path / "nowhere")
    another_machine()
    with pytest.raises(
        DataError, match="RAYCLS_STORAGE to a path that all nodes share, and run `raycls data push shapes@1`"
    ):
        on_this_node(dataset)


def test_a_dataset_damaged_on_the_storage_path_is_refused(storage, another_machine):
    sharing.push(shapes.make())
    images = storage / "shapes/1/val/images.npy"
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    another_machine()
    with pytest.raises(
        DataError,
        match=r"the copy of shapes@1 on .* is damaged: remove .*val/images.npy does not have the SHA-256",
    ):
        open_dataset("shapes")
    assert list_datasets() == []
    (storage / "shapes/1" / INFO).write_text("{}")
    with pytest.raises(DataError, match=r"dataset.json on the storage path is not a description"):
        open_dataset("shapes")


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("sha256", lambda digests: digests | {"../../../ESCAPED": "0" * 64}),
        ("sha256", lambda digests: digests | {"train/../../../ESCAPED": "0" * 64}),
        ("tables", lambda tables: tables | {"../../../ESCAPED": "0" * 64}),
        ("counts", lambda counts: counts | {"..": 0}),
        ("name", lambda name: "../../ESCAPED"),
        ("name", lambda name: "another"),
        ("version", lambda version: 2),
        ("store", lambda store: "encoded"),
        ("shards", lambda shapes: {"train": (3, 10)}),
    ],
)
def test_a_pushed_description_cannot_name_files_outside_its_version(
    storage, another_machine, tmp_path, field, changed
):
    sharing.push(shapes.make())
    content = json.loads((storage / "shapes/1" / INFO).read_text())
    content[field] = changed(content[field])
    (storage / "shapes/1" / INFO).write_text(json.dumps(content))
    (storage / "ESCAPED").write_text("what escapes")
    (tmp_path / "ESCAPED").write_text("what escapes")
    another_machine("deep/in/other")
    with pytest.raises(DataError, match=r"dataset.json on the storage path is not a description"):
        open_dataset("shapes")
    assert not list((tmp_path / "deep").rglob("*ESCAPED*"))


def test_a_version_without_listed_tables_is_pulled_with_its_rows_and_nothing_else(storage, another_machine):
    pushed = shapes.make()
    sharing.push(pushed)
    content = json.loads((storage / "shapes/1" / INFO).read_text())
    (storage / "shapes/1" / INFO).write_text(json.dumps(content | {"tables": {}}))
    (storage / "shapes/1/more").mkdir()
    (storage / "shapes/1/more/file").touch()
    another_machine()
    found = open_dataset("shapes")
    assert read_rows(found).equals(read_rows(pushed))
    assert not (found.path / "more").exists()


def test_what_is_damaged_here_is_not_pushed(storage):
    made = shapes.make()
    images = made.path / "val/images.npy"
    images.write_bytes(images.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"shapes@1 is damaged: val/images.npy"):
        sharing.push(made)
    assert not (storage / "shapes/1" / INFO).exists()


def test_pushing_needs_a_storage_path(tmp_path, monkeypatch):
    dataset = shapes.make()
    with pytest.raises(UsageError, match="RAYCLS_STORAGE is not set"):
        sharing.push(dataset)
    monkeypatch.setenv("RAYCLS_STORAGE", "nonsense://x")
    with pytest.raises(DataError, match="is not a storage path"):
        sharing.push(dataset)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot push shapes"):
        sharing.push(dataset)
