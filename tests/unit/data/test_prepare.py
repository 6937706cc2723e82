import hashlib
import json
import shutil

import numpy as np
import pytest

from raycls import home as places
from raycls.data.manifest import read_rows
from raycls.data.packed import FORMER_INFO
from raycls.data.prepare import open_or_prepare, prepare
from raycls.data.versions import list_datasets, open_dataset
from raycls.errors import UnknownDatasetError, UsageError
from tests.unit.data import shapes

pytestmark = pytest.mark.usefixtures("home")


def test_digits_are_all_there_upright_and_always_the_same():
    from sklearn.datasets import load_digits

    dataset = prepare("digits")
    made = dataset.info
    assert (made.reference, made.image_size, made.mirrorable) == ("digits@1", 8, False)
    assert sum(made.counts.values()) == 1797
    assert made.counts["val"] == made.counts["gate"] == made.counts["test"] == 179
    packed = {
        (image[..., channel].tobytes(), label)
        for split in made.counts
        for image, label in zip(dataset.images(split), dataset.labels(split), strict=True)
        for channel in range(3)
    }
    original = load_digits()
    scaled = np.round(original.images / 16 * 255).astype(np.uint8)
    assert packed == {(image.tobytes(), label) for image, label in zip(scaled, original.target, strict=True)}
    sources = read_rows(dataset)["source"].to_pylist()
    first = int(sources[0])
    assert np.array_equal(dataset.images("train")[0][..., 0], scaled[first]), "a row knows its image"


def test_a_built_in_dataset_that_exists_is_returned_as_it_is(capsys):
    first = prepare("digits")
    assert prepare("digits") == first
    assert "digits@1 is prepared already" in capsys.readouterr().err
    assert [info.reference for info in list_datasets()] == ["digits@1"]


def test_a_built_in_dataset_is_prepared_where_it_is_first_named(capsys):
    assert open_or_prepare("digits").info.reference == "digits@1"
    assert "digits is not prepared yet: preparing it" in capsys.readouterr().err
    assert open_or_prepare("digits").info.reference == "digits@1"
    assert "preparing" not in capsys.readouterr().err
    with pytest.raises(UnknownDatasetError):
        open_or_prepare("pets")


@pytest.mark.parametrize(
    ("source", "options", "complaint"),
    [
        ("digits", {"size": 16}, "digits is prepared in one way only"),
        ("cifar10", {"name": "mine"}, "cifar10 is prepared in one way only"),
        ("digits", {"root": "."}, "--root"),
        ("cifar100", {}, "cifar100 does not exist: a source is cifar10, digits, a folder of class folders"),
        ("FOLDER/file.txt", {}, "is no source: give a folder of class folders"),
        ("FOLDER", {"size": 4}, "--size 4 is out of range: from 8 to 1024"),
        ("FOLDER", {"size": 5000}, "--size 5000 is out of range"),
        ("FOLDER", {"name": "cifar10"}, "the name cifar10 belongs to the built-in dataset"),
        ("FOLDER", {"name": "a/b"}, "cannot name a dataset"),
        ("FOLDER", {"resize": "stretch"}, "--resize stretch is unknown: choose one of crop, pad, squash"),
        ("FOLDER", {"labels": "middle"}, "--labels middle is unknown: choose one of top, leaf, path"),
        ("FOLDER", {"group_by": "("}, r"--group-by .* is no regular expression"),
        ("FOLDER", {"shares": (0.9, 0.1)}, "--shares must be 4 numbers that sum to 1"),
        ("FOLDER", {"shares": (0.9, 0.1, 0.1, 0.1)}, "--shares must be 4 numbers that sum to 1"),
    ],
)
def test_wrong_use_is_reported_and_makes_nothing(tmp_path, source, options, complaint):
    shapes.make()
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "file.txt").write_text("text")
    with pytest.raises(UsageError, match=complaint):
        prepare(source.replace("FOLDER", str(folder)), **options)
    assert [info.reference for info in list_datasets()] == ["shapes@1"]
    assert [path.name for path in places.datasets().iterdir() if path.is_dir()] == ["shapes"]


def test_a_dataset_from_before_there_were_versions_is_version_1(home):
    """It has no manifest.parquet, no split `gate`, and its files lie in the dataset's own folder."""
    made = prepare("digits")
    folder = places.datasets() / "digits"
    for split in ("train", "val", "test"):
        (made.path / split).rename(folder / split)
    fields = made.info.model_dump(mode="json")
    for name in ("version", "resize", "options", "left_out", "ignored", "tables"):
        del fields[name]
    del fields["counts"]["gate"], fields["class_counts"]["gate"]
    fields["sha256"] = {file: digest for file, digest in fields["sha256"].items() if "gate" not in file}
    fields["skipped"] = [{"path": "a.txt", "reason": "no image"}]
    parts = [sorted(fields["sha256"].items()), fields["classes"], fields["image_size"]]
    fields["fingerprint"] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    (folder / FORMER_INFO).write_text(json.dumps(fields))
    shutil.rmtree(made.path)
    dataset = open_dataset("digits@1")
    assert (dataset.info.reference, dataset.gate, dataset.info.left_out) == ("digits@1", "val", 1)
    assert len(dataset.images("val")) == 179
    dataset.verify()
    assert len(read_rows(dataset)) == 0
    later = shapes.make("digits")
    assert later.info.reference == "digits@2"
    assert open_dataset("digits").info == later.info
    assert open_dataset("digits@1").info == dataset.info


@pytest.mark.parametrize(("source", "name"), [("", None), ("", "pets"), (".", "")])
def test_an_unset_variable_of_the_shell_is_not_the_present_folder(home, source, name):
    with pytest.raises(UsageError, match="the source or the name is empty"):
        prepare(source, name=name)
