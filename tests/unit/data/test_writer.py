import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raycls import home as places
from raycls.data import sharing
from raycls.data.exclusion import exclusions_of
from raycls.data.forget import forget
from raycls.data.history import former_splits
from raycls.data.layout import removed_rows
from raycls.data.manifest import read_left_out, read_rows
from raycls.data.packed import SPLITS
from raycls.data.resized import at_size
from raycls.data.splits import NEW
from raycls.data.versions import list_datasets, open_by_fingerprint, open_dataset, remove
from raycls.data.writer import channel_statistics, reserved, write_version
from raycls.errors import BusyError, DataError, UnknownDatasetError, UsageError
from tests import datasets
from tests.unit.data import shapes

pytestmark = pytest.mark.usefixtures("home")
ROOT = Path(__file__).parents[3]

# A preparation in a process of its own, which stops forever at the moment under test.
CHILD = """
import sys, time
from raycls.data import writer as module
from tests import datasets
from tests.unit.data import shapes

def stop(*arguments):
    print("here", flush=True)
    time.sleep(600)

if sys.argv[1] == "synchronising":  # everything is written, the description too, and nothing renamed
    module.sync = stop
images = shapes.images(255 - shapes.PIXELS)
with module.reserved("shapes"), module.write_version("shapes", module.next_version("shapes")) as writer:
    datasets.fill(writer, images)
    if sys.argv[1] == "filling":
        stop()
    datasets.publish(writer, images, shapes.labels(), shapes.CLASSES)
"""


@pytest.fixture
def stopped_at():
    """Start the child and wait until it has reached `moment`. It is killed after the test in any case."""
    children = []

    def start(moment):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, moment], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        children.append(child)
        assert child.stdout.readline() == b"here\n", child.stderr.read().decode()
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def end(child, how):
    child.send_signal(how)
    child.wait(timeout=20)


def leftovers():
    """Versions and unfinished files. The lock and the last number of a name stay."""
    return sorted(
        str(path.relative_to(places.datasets()))
        for path in places.datasets().glob("*/*")
        if path.name != ".last"
    )


@pytest.mark.parametrize("moment", ["filling", "synchronising"])
def test_a_killed_preparation_leaves_no_dataset_and_the_next_one_tidies_up(stopped_at, moment):
    end(stopped_at(moment), signal.SIGKILL)
    assert leftovers() == ["shapes/.1.tmp"]
    assert list_datasets() == []
    with pytest.raises(UnknownDatasetError, match="prepared so far: none"):
        open_dataset("shapes")
    shapes.make()
    assert leftovers() == ["shapes/1"]


def test_ctrl_c_removes_what_was_written_at_once(stopped_at):
    child = stopped_at("filling")
    end(child, signal.SIGINT)
    assert child.returncode != 0
    assert leftovers() == []


@pytest.mark.parametrize("moment", ["filling", "synchronising"])
def test_a_killed_preparation_of_the_next_version_leaves_the_former_one(stopped_at, moment):
    old = shapes.make().info
    end(stopped_at(moment), signal.SIGKILL)
    assert list_datasets() == [old]
    open_dataset("shapes").verify()


def test_versions_stay_beside_each_other():
    old = shapes.make().info
    new = shapes.make(pixels=255 - shapes.PIXELS).info
    assert (old.reference, new.reference) == ("shapes@1", "shapes@2")
    assert old.fingerprint != new.fingerprint
    assert open_dataset("shapes").info == new
    assert open_dataset("shapes@1").info == old
    assert open_by_fingerprint("shapes", old.fingerprint).info == old
    with pytest.raises(UnknownDatasetError, match="shapes@3; the versions of shapes are: shapes@1, shapes@2"):
        open_dataset("shapes@3")
    with pytest.raises(
        UnknownDatasetError, match=r"no version of dataset shapes .* has the fingerprint 0000"
    ):
        open_by_fingerprint("shapes", "0" * 64)
    with pytest.raises(UsageError, match="'shapes@x' is no dataset version"):
        open_dataset("shapes@x")
    remove("shapes@1")
    assert list_datasets() == [new]
    remove("shapes@2")
    assert leftovers() == []
    assert shapes.make().info.version == 3, "a number is never given twice"
    remove("shapes@3")
    with pytest.raises(UnknownDatasetError):
        remove("shapes@3")
    with pytest.raises(UsageError, match="say which version"):
        remove("shapes")


def test_the_splits_of_a_removed_version_are_remembered_while_there_is_another():
    shapes.make()
    rows = read_rows(open_dataset("shapes"))
    shapes.make(pixels=255 - shapes.PIXELS)

    def splits():
        columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in ("source", "sha256", "phash")}
        columns["key"] = np.full(len(rows), "")
        found = former_splits(
            "shapes", columns, shapes.LABELS, shapes.CLASSES, lambda positions: shapes.PIXELS
        )
        return [SPLITS[split] if split != NEW else "new" for split in found.splits]

    remove("shapes@1")
    assert splits() == rows["split"].to_pylist()
    remove("shapes@2")
    assert set(splits()) == {"new"}


def test_a_second_preparation_of_a_name_is_refused_and_names_the_process(stopped_at):
    child = stopped_at("filling")
    with pytest.raises(BusyError, match=f"process {child.pid} is preparing the dataset shapes:"):
        shapes.make()
    shapes.make("other")
    assert (places.datasets() / "shapes/.1.tmp").exists(), "the files of the running process must stay"
    end(child, signal.SIGKILL)
    shapes.make().verify()


def test_a_failure_inside_leaves_nothing():
    with pytest.raises(ZeroDivisionError), reserved("shapes"), write_version("shapes", 1) as writer:
        datasets.fill(writer, shapes.images())
        raise ZeroDivisionError
    assert leftovers() == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "ä", "two words", "x\n", "pets@1"])
def test_a_name_that_is_no_plain_directory_name_is_refused(name):
    with pytest.raises(UsageError, match="--name"), reserved(name):
        pass
    assert not places.datasets().exists()


def test_a_disk_too_small_is_reported_before_anything_is_written():
    with (
        pytest.raises(DataError, match=r"images\.npy takes .* MB free"),
        reserved("shapes"),
        write_version("shapes", 1) as writer,
    ):
        writer.array("train", 10**9, 10**4)


def test_a_home_that_cannot_be_written_is_reported(home):
    Path(os.environ["RAYCLS_HOME"]).write_text("a file")
    with pytest.raises(DataError, match="cannot prepare the dataset shapes"):
        shapes.make()


def test_statistics_are_those_of_all_pixels_and_finite_for_a_flat_channel():
    images = np.random.default_rng(0).integers(0, 256, (3000, 16, 16, 3), dtype=np.uint8)
    images[..., 1] = 7
    mean, std = channel_statistics(images)
    assert np.allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    assert np.allclose(np.array(std)[[0, 2]], (images / 255).std(axis=(0, 1, 2))[[0, 2]])
    assert 0 < std[1] < 1 / 255


def test_an_image_is_forgotten_in_every_version(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "storage"))
    first, second = shapes.make(), shapes.make(pixels=np.roll(shapes.PIXELS, 1, axis=0))
    sharing.push(first)
    digest = read_rows(first)["sha256"][3].as_py()
    image = first.images("train")[3].copy()
    smaller = at_size(open_dataset("shapes@1"), 4)
    assert forget(digest) == ["shapes@1", "shapes@2"]
    assert not smaller.path.exists()  # a copy that a training had made
    for dataset, before in ((open_dataset("shapes@1"), first), (open_dataset("shapes@2"), second)):
        dataset.verify()
        assert digest not in read_rows(dataset)["sha256"].to_pylist()
        assert not any((images == image).all((1, 2, 3)).any() for images in map(dataset.images, SPLITS))
        assert sum(dataset.info.counts.values()) == 29
        assert dataset.info.fingerprint != before.info.fingerprint
        assert open_by_fingerprint("shapes", before.info.fingerprint).info == dataset.info
        assert "forgotten" in read_left_out(dataset)["kind"].to_pylist()
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "other"))
    assert open_dataset("shapes@1").info.counts["train"] == 19, "the copy on the storage path forgets it, too"
    assert forget(digest) == [], "a second time there is nothing to do"
    shapes.make(pixels=255 - shapes.PIXELS)
    other = read_rows(open_dataset("shapes@1"))["sha256"][0].as_py()
    remove("shapes@1")
    with pytest.raises(UsageError, match="no dataset version on this machine has an image"):
        forget(other)
    (file,) = removed_rows("shapes").values()
    assert other not in pq.read_table(file)["sha256"].to_pylist()
    with pytest.raises(UsageError, match="no dataset version on this machine has an image"):
        forget("0" * 64)
    with pytest.raises(UsageError, match="is no SHA-256"):
        forget("photos/cat/1.jpg")


def test_a_forgotten_image_does_not_come_back_with_a_copy_and_leaves_no_path(tmp_path, monkeypatch, capsys):
    made = shapes.make()
    digest = read_rows(made)["sha256"][3].as_py()
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "storage"))
    sharing.push(made)
    monkeypatch.delenv("RAYCLS_STORAGE")
    assert forget(digest.upper()) == ["shapes@1"]
    assert "set RAYCLS_STORAGE and run the command again" in capsys.readouterr().err
    forgotten = open_dataset("shapes")
    assert {row["source"] for row in read_left_out(forgotten).to_pylist() if row["kind"] == "forgotten"} == {
        "an image"
    }
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "storage"))
    assert sharing.pull("shapes", 1), "the copy has a former state, and is not pulled"
    assert open_dataset("shapes").info == forgotten.info
    remove("shapes@1")
    assert exclusions_of("shapes", None).forgotten == {digest}
    pulled = open_dataset("shapes@1")
    assert digest not in read_rows(pulled)["sha256"].to_pylist()
    assert sum(pulled.info.counts.values()) == 29


def test_a_damaged_version_does_not_keep_an_image_in_the_others():
    made = shapes.make("b")
    damaged = shapes.make("a").path / "train/images.npy"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    digest = read_rows(made)["sha256"][3].as_py()
    with pytest.raises(
        DataError, match=r"forgotten in b@1; 1 versions may still have it: dataset a@1 is damaged"
    ):
        forget(digest)
    assert digest not in read_rows(open_dataset("b"))["sha256"].to_pylist()


def test_a_replacement_that_was_killed_between_two_renames_is_finished():
    made = shapes.make()
    made.path.rename(made.path.with_name(".1.ready"))
    assert list_datasets() == []
    with reserved("shapes"):
        assert list_datasets() == [made.info]
