import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raycls import home as places
from raycls.data.packed import list_datasets, open_dataset
from raycls.data.writer import channel_statistics, write_dataset
from raycls.errors import BusyError, DataError, UnknownDatasetError, UsageError
from tests.unit.data import shapes

pytestmark = pytest.mark.usefixtures("home")
ROOT = Path(__file__).parents[3]

# A preparation in a process of its own, which stops forever at the moment under test.
CHILD = """
import sys, time
from pathlib import Path
from raycls.data import writer as module
from tests.unit.data import shapes

def stop(*arguments):
    print("here", flush=True)
    time.sleep(600)

moment, rename = sys.argv[1], Path.rename
if moment == "synchronising":  # everything is written, the manifest too, and nothing renamed
    module._sync = stop
if moment == "replacing":  # the old dataset has moved out and the new one has not moved in
    Path.rename = lambda path, target: (rename(path, target), stop())
with module.write_dataset("shapes") as writer:
    shapes.fill(writer, 255 - shapes.PIXELS)
    if moment == "filling":
        stop()
    shapes.publish(writer)
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
    return sorted(path.name for path in places.datasets().iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("moment", ["filling", "synchronising"])
def test_a_killed_preparation_leaves_no_dataset_and_the_next_one_tidies_up(stopped_at, moment):
    end(stopped_at(moment), signal.SIGKILL)
    assert leftovers() == [".shapes.tmp"]
    assert list_datasets() == []
    with pytest.raises(UnknownDatasetError, match="prepared so far: none"):
        open_dataset("shapes")
    shapes.make("other")
    assert leftovers() == ["other"]


def test_ctrl_c_removes_what_was_written_at_once(stopped_at):
    child = stopped_at("filling")
    end(child, signal.SIGINT)
    assert child.returncode != 0
    assert leftovers() == []


@pytest.mark.parametrize("moment", ["filling", "synchronising", "replacing"])
def test_killed_while_replacing_a_dataset_the_old_one_is_still_there(stopped_at, moment):
    old = shapes.make().manifest
    end(stopped_at(moment), signal.SIGKILL)
    assert list_datasets() == [old]
    open_dataset("shapes").verify()
    shapes.make("other")
    assert leftovers() == ["other", "shapes"]
    assert open_dataset("shapes").manifest == old


def test_a_new_dataset_replaces_the_old_one():
    old = shapes.make().manifest
    new = shapes.make(pixels=255 - shapes.PIXELS).manifest
    assert old.fingerprint != new.fingerprint
    assert open_dataset("shapes").manifest == new
    assert leftovers() == ["shapes"]


def test_a_second_preparation_of_a_name_is_refused_and_names_the_process(stopped_at):
    child = stopped_at("filling")
    with pytest.raises(BusyError, match=f"process {child.pid} is preparing the dataset shapes:"):
        shapes.make()
    shapes.make("other")
    assert ".shapes.tmp" in leftovers(), "the files of the running process must stay"
    end(child, signal.SIGKILL)
    shapes.make().verify()


def test_a_failure_inside_leaves_nothing():
    with pytest.raises(ZeroDivisionError), write_dataset("shapes") as writer:
        shapes.fill(writer)
        raise ZeroDivisionError
    assert leftovers() == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "ä", "two words", "x\n"])
def test_a_name_that_is_no_plain_directory_name_is_refused(name):
    with pytest.raises(UsageError, match="--name"), write_dataset(name):
        pass
    assert not places.datasets().exists()


def test_a_disk_too_small_is_reported_before_anything_is_written():
    with pytest.raises(DataError, match=r"images\.npy takes .* MB free"), write_dataset("shapes") as writer:
        writer.array("train/images.npy", (10**9, 10**4, 10**4, 3))


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
