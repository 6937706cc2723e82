"""A version whose images are encoded in shards: the same pixels, in any order, from here or from the storage path."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raycls.data import away, codec, encoded, shards, sharing
from raycls.data.encoded import EncodedImages, Reading
from raycls.data.forget import forget
from raycls.data.manifest import read_rows
from raycls.data.packed import PackedDataset, is_shard
from raycls.data.subsets import Subset, opened
from raycls.data.versions import on_this_node, open_dataset, remove
from raycls.errors import DataError, StorageError
from raycls.training.failures import check_unchanged
from tests.datasets import make_version

pytestmark = pytest.mark.usefixtures("home")
SIDE = 16
COUNTS = {"train": 300, "val": 40, "gate": 10, "test": 20}


def _pictures(side: int, count: int, seed: int) -> np.ndarray:
    """Smooth pictures, as photographs are: noise at 4×4 pixels, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return coarse.repeat(side // 4, 1).repeat(side // 4, 2)


def _images(side: int = SIDE) -> dict[str, np.ndarray]:
    return {split: _pictures(side, count, seed) for seed, (split, count) in enumerate(COUNTS.items())}


def _labels() -> dict[str, np.ndarray]:
    return {split: np.arange(count) % 3 for split, count in COUNTS.items()}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few blocks, blocks of a few images."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(shards, "SHARD_BYTES", 6000)


@pytest.fixture
def dataset(small: None) -> PackedDataset:
    return make_version("many", _images(), _labels(), ("a", "b", "c"), store="encoded")


def _shards(dataset: PackedDataset, split: str = "train") -> list[Path]:
    return sorted((dataset.path / split).glob("shard-*.parquet"))


def test_what_was_written_is_what_is_read_in_any_order(dataset: PackedDataset) -> None:
    block, shard = dataset.info.shards["train"]
    assert 1 < block < shard < 300
    assert len(_shards(dataset)) == -(-300 // shard) > 2
    assert dataset.info.store == "encoded"
    found = open_dataset("many")
    for split, pixels in _images().items():
        images = found.images(split)
        assert (len(images), images.shape) == (len(pixels), pixels.shape)
        assert np.array_equal(images[:], pixels)
    images, pixels = found.images("train"), _images()["train"]
    chosen = np.random.default_rng(3).permutation(300)[:100]
    assert np.array_equal(images[chosen], pixels[chosen])
    assert np.array_equal(images[299], pixels[299])
    assert np.array_equal(images[-1], pixels[-1])
    assert np.array_equal(images[np.arange(300) % 7 == 0], pixels[::7])
    assert images[[]].shape == (0, SIDE, SIDE, 3)
    with pytest.raises(IndexError):
        images[300]
    dataset.verify()


def test_statistics_and_fingerprint_follow_the_images(dataset: PackedDataset) -> None:
    packed = make_version("packed", _images(), _labels(), ("a", "b", "c"))
    assert dataset.info.mean == packed.info.mean
    assert dataset.info.std == packed.info.std
    assert dataset.info.fingerprint != packed.info.fingerprint
    again = make_version("again", _images(), _labels(), ("a", "b", "c"), store="encoded")
    assert again.info.fingerprint == dataset.info.fingerprint
    other = _images()
    other["test"][19, 15, 15, 2] ^= 1
    changed = make_version("changed", other, _labels(), ("a", "b", "c"), store="encoded")
    assert changed.info.fingerprint != dataset.info.fingerprint


def test_photographs_are_lossy_in_train_alone(small: None) -> None:
    images = _images(side=codec.LOSSY_FROM)
    dataset = make_version("large", images, _labels(), ("a", "b", "c"), store="encoded")
    train = dataset.images("train")[:]
    error = np.abs(train.astype(int) - images["train"])
    assert 0 < error.mean() < 3
    for split in ("val", "gate", "test"):
        assert np.array_equal(dataset.images(split)[:], images[split])


def test_an_empty_split_has_no_shard(small: None) -> None:
    images, labels = _images(), _labels()
    images["gate"], labels["gate"] = images["gate"][:0], labels["gate"][:0]
    dataset = make_version("empty", images, labels, ("a", "b", "c"), store="encoded")
    assert dataset.images("gate")[:].shape == (0, SIDE, SIDE, 3)
    assert _shards(dataset, "gate") == []
    open_dataset("empty").verify()


def test_a_changed_byte_is_an_error_that_names_the_shard(dataset: PackedDataset) -> None:
    file = _shards(dataset)[1]
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    images = open_dataset("many").images("train")
    with pytest.raises(
        DataError, match=r"many@1: .*train/shard-00001\.parquet cannot be read.*data remove many@1"
    ):
        images[:]
    with pytest.raises(DataError, match=r"many@1 is damaged: train/shard-00001\.parquet does not have"):
        dataset.verify()


def test_a_missing_shard_is_reported_when_the_version_is_opened(dataset: PackedDataset) -> None:
    _shards(dataset)[1].unlink()
    with pytest.raises(
        DataError, match=r"train/shard-00001\.parquet is not on this machine: set RAYCLS_STORAGE"
    ):
        open_dataset("many")
    with pytest.raises(DataError, match=r"shard-00001\.parquet cannot be read: .*; set RAYCLS_STORAGE"):
        dataset.images("train")[:]


def test_a_short_shard_is_reported_when_it_is_read(dataset: PackedDataset) -> None:
    file = _shards(dataset)[1]
    file.write_bytes(file.read_bytes()[:-100])
    images = open_dataset("many").images("train")
    with pytest.raises(DataError, match=r"train/shard-00001\.parquet cannot be read: .*data remove many@1"):
        images[:]


def test_a_shard_of_another_version_is_reported(dataset: PackedDataset) -> None:
    first = _shards(dataset)[0]
    table = pq.read_table(first)
    pq.write_table(table.slice(1), first)
    with pytest.raises(DataError, match=r"shard-00000\.parquet cannot be read: it has \d+ images, not"):
        open_dataset("many").images("train")[:]


def test_a_machine_reads_the_shards_where_they_were_pushed(
    dataset: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "storage"))
    sharing.push(dataset)
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "another-machine"))
    there = open_dataset("many")
    assert there.info == dataset.info
    assert there.absent() == [file for file in dataset.info.sha256 if is_shard(file)]
    assert np.array_equal(there.images("train")[:], _images()["train"])
    missing = tmp_path / "storage/datasets/many/1/train/shard-00002.parquet"
    moved = missing.rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"shard-00002\.parquet cannot be read.*push many@1 again"):
        there.images("train")[:]
    moved.rename(missing)
    with pytest.raises(DataError, match=r"not whole on this machine.*raycls data pull many@1"):
        monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "elsewhere"))
        sharing.push(there)
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "storage"))
    assert sharing.pull("many", shards=True)
    assert there.absent() == []
    monkeypatch.delenv("RAYCLS_STORAGE")
    open_dataset("many").verify()


@pytest.fixture
def elsewhere(dataset: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackedDataset:
    """The same version on a machine that has its description alone."""
    monkeypatch.setenv("RAYCLS_STORAGE", str(tmp_path / "storage"))
    sharing.push(dataset)
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "another-machine"))
    monkeypatch.setattr(away, "PAUSES", (0.0, 0.0))
    return open_dataset("many")


def _forget_one(dataset: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget an image where the dataset was prepared. So the shards in the bucket are replaced."""
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "home"))
    assert dataset.path.is_relative_to(tmp_path / "home")
    assert forget(read_rows(dataset)["sha256"][2].as_py()) == ["many@1"]
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "another-machine"))


RENEW = "`raycls data remove many@1 --force` and `raycls data pull many@1`"


def test_shards_that_were_replaced_are_not_read_against_former_labels(
    dataset: PackedDataset, elsewhere: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = elsewhere.images("train")
    begun[0]
    _forget_one(dataset, tmp_path, monkeypatch)
    for read in (on_this_node, check_unchanged, lambda stale: stale.images("train")[0]):
        with pytest.raises(DataError, match=f"has another many@1 .*{RENEW}"):
            read(elsewhere)
    with pytest.raises(DataError, match=RENEW):
        begun[:]
    remove("many@1")
    assert sharing.pull("many", 1)
    assert len(on_this_node(open_dataset("many")).images("train")[:]) == 299


def test_shards_with_other_labels_are_refused(elsewhere: PackedDataset) -> None:
    file = elsewhere.path / "train/labels.npy"
    np.save(file, np.load(file)[::-1])
    with pytest.raises(DataError, match=f"the labels on this machine belong to.*{RENEW}"):
        elsewhere.images("train")[:]


def test_a_version_that_the_bucket_has_no_more_is_named(elsewhere: PackedDataset, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "storage/datasets/many/1")
    with pytest.raises(DataError, match=r"does not have many@1.*RAYCLS_STORAGE"):
        check_unchanged(elsewhere)


class Failing:
    """A client of the storage path whose requests fail, `times` times."""

    def __init__(self, filesystem: Any, times: int):
        self._filesystem, self.times = filesystem, times

    def open_input_file(self, path: str) -> Any:
        self._fail()
        file = self._filesystem.open_input_file(path)
        return SimpleNamespace(
            read=lambda count: self._fail() or file.read(count),
            seek=file.seek,
            tell=file.tell,
            close=file.close,
        )

    def _fail(self) -> None:
        self.times -= 1
        if self.times >= 0:
            raise OSError("AWS Error SLOW_DOWN during GetObject operation")


@pytest.mark.parametrize("times", [1, 2])
def test_an_error_of_the_bucket_that_passes_is_not_noticed(
    elsewhere: PackedDataset, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    clients = []
    real = away.file_system
    monkeypatch.setattr(
        away, "file_system", lambda uri: clients.append(uri) or (Failing(real(uri)[0], times), real(uri)[1])
    )
    assert np.array_equal(elsewhere.images("train")[:], _images()["train"])
    assert len(clients) == 1, "one client reads all blocks"


def test_an_error_of_the_bucket_that_stays_is_one_of_the_storage(
    elsewhere: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = away.file_system
    client = Failing(real("/")[0], 0)
    monkeypatch.setattr(away, "file_system", lambda uri: (client, real(uri)[1]))
    images = elsewhere.images("train")
    images[0]
    client.times = 1000
    with pytest.raises(
        StorageError, match=r"storage path cannot be read: .*shard-00008.*SLOW_DOWN.* goes on"
    ):
        images[299:]
    client.times = 0
    assert np.array_equal(images[299], _images()["train"][299])


def test_a_byte_that_changed_in_the_bucket_is_no_error_of_the_storage(
    elsewhere: PackedDataset, tmp_path: Path
) -> None:
    file = tmp_path / "storage/datasets/many/1/train/shard-00001.parquet"
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        DataError, match=r"shard-00001\.parquet cannot be read: could not verify page integrity"
    ):
        elsewhere.images("train")[:]


def test_a_fold_keeps_the_bytes_of_its_images(dataset: PackedDataset) -> None:
    with opened(dataset, Subset(splits=("train", "val"), folds=4, fold=2)) as part:
        train, val = part.images("train"), part.images("val")
        assert isinstance(train, EncodedImages)
        assert (len(train), len(val)) == (255, 85)
        found = np.concatenate([train[:], val[:]])
    pixels = _images()
    expected = np.concatenate([pixels["train"], pixels["val"]])
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)


def _gathered(images: EncodedImages, batches: list[np.ndarray]) -> list[np.ndarray]:
    found = []
    with Reading(images, batches) as reading:
        for rows in reading.batches():
            found.append(np.empty((len(rows), *images.shape[1:]), np.uint8))
            reading.gather(rows, found[-1])
        assert not reading._read, "a block that nobody needs any more is still in memory"
    return found


def test_reading_ahead_gives_each_batch_and_reads_each_block_once(
    dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "AHEAD", 3)
    images, pixels = dataset.encoded_images("train"), _images()["train"]
    read: list[int] = []
    block = images.shards.block
    monkeypatch.setattr(images.shards, "block", lambda number: read.append(number) or block(number))
    batches = np.array_split(np.arange(300), 23)
    for found, rows in zip(_gathered(images, batches), batches, strict=True):
        assert np.array_equal(found, pixels[rows])
    assert sorted(read) == list(range(images.shards.blocks))
    read.clear()
    with Reading(images, batches) as reading:
        next(reading.batches())
    needed = len(np.unique(batches[0] // dataset.info.shards["train"][0]))
    assert len(read) <= needed + 3, "more is read ahead than was asked for"
