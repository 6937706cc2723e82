"""Training from shards: one order for one seed, each image once in it, and the figures of arrays."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from raycls.config import Config, override
from raycls.data import encoded, shards
from raycls.data.packed import PackedDataset
from raycls.data.resized import at_size
from raycls.engines.predictor import Predictor
from raycls.errors import DataError
from raycls.training import encoded_split
from raycls.training.encoded_split import EncodedSplit, open_split
from raycls.training.evaluation import evaluate
from raycls.training.loop import fit, start
from raycls.training.presets import preset
from raycls.training.sampling import EpochOrder
from raycls.training.workers import Workers
from tests.datasets import count_blocks, encoded_copy

CPU = torch.device("cpu")


@pytest.fixture
def copy(digits: PackedDataset, home: Path, monkeypatch: pytest.MonkeyPatch) -> PackedDataset:
    """`digits` in shards of a few small blocks."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 8_000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 50_000)
    monkeypatch.setattr(encoded_split, "WINDOW", 4)
    found = encoded_copy(digits, "shards")
    assert len(list((found.path / "train").glob("shard-*"))) > 2
    return found


@pytest.fixture
def config(digits: PackedDataset) -> Config:
    return override(preset("smoke", digits.info), ["epochs=2", "precision=fp32", "batch_size=50"])


def _orders(config: Config, train: EncodedSplit, size: int, epoch: int) -> list[list[torch.Tensor]]:
    """Return each worker's batches."""
    return [list(EpochOrder(config, train, Workers(rank, size)).batches(epoch)) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_worker_has_its_part_and_no_image_comes_twice(
    copy: PackedDataset, config: Config, size: int
) -> None:
    train = open_split(copy, "train", CPU)
    orders = _orders(config, train, size, epoch=0)
    steps = copy.info.counts["train"] // 50
    assert [len(order) for order in orders] == [steps] * size
    assert [sum(map(len, step)) for step in zip(*orders, strict=True)] == [50] * steps
    drawn = torch.cat([batch for order in orders for batch in order])
    assert len(drawn.unique()) == len(drawn) == steps * 50
    again = _orders(config, train, size, epoch=0)
    assert all(torch.equal(torch.cat(a), torch.cat(b)) for a, b in zip(orders, again, strict=True))
    other = _orders(config, train, size, epoch=1)
    assert not torch.equal(orders[0][0], other[0][0])
    reseeded = _orders(override(config, ["seed=7"]), train, size, epoch=0)
    assert not torch.equal(orders[0][0], reseeded[0][0])


def test_a_workers_blocks_are_its_own_and_those_of_a_window_are_mixed(
    copy: PackedDataset, config: Config
) -> None:
    train = open_split(copy, "train", CPU)
    block = copy.info.shards["train"][0]
    blocks = [set((torch.cat(order) // block).tolist()) for order in _orders(config, train, 2, epoch=0)]
    assert len(blocks[0] & blocks[1]) <= 1
    (whole,) = _orders(config, train, 1, epoch=0)
    drawn = torch.cat(whole)
    first = drawn[: 4 * block]
    assert len((first // block).unique()) == 4
    assert len((drawn[:50] // block).unique()) > 2
    assert not torch.equal(first, first.sort().values)


def test_a_share_of_the_images_is_in_few_blocks_and_has_every_class_in_proportion(
    copy: PackedDataset,
) -> None:
    train = open_split(copy, "train", CPU, 300)
    labels = copy.labels("train")
    assert len(train.chosen) == 300
    expected = np.bincount(labels) * 300 / len(labels)
    assert np.abs(np.bincount(labels[train.chosen.numpy()]) - expected).max() <= 1
    assert train.chosen.max() < 0.4 * len(labels)


def test_sampling_draws_every_class_equally_often(copy: PackedDataset, config: Config) -> None:
    train = open_split(copy, "train", CPU)
    train.labels = (train.labels == 1).long()  # about one image in ten
    (order,) = _orders(override(config, ["balance=sampling"]), train, 1, epoch=0)
    drawn = torch.cat(order)
    assert train.labels[drawn].float().mean() == pytest.approx(0.5, abs=0.06)


def test_sampling_repeats_no_image_of_a_small_class_without_end(copy: PackedDataset, config: Config) -> None:
    train = open_split(copy, "train", CPU)
    train.labels = torch.zeros_like(train.labels)
    train.labels[500] = 1
    (order,) = _orders(override(config, ["balance=sampling"]), train, 1, epoch=0)
    times = torch.cat(order).bincount(minlength=len(train.labels))
    assert times[500] == encoded_split.REPEATS
    assert times[:500].max() <= 2, "the others of its window come as often as those of other windows"


def test_batches_are_the_images_of_their_indices_and_are_decoded_by_threads_that_end(
    copy: PackedDataset, digits: PackedDataset, config: Config
) -> None:
    train, pixels = open_split(copy, "train", CPU), torch.from_numpy(np.array(digits.images("train")))
    (order,) = _orders(config, train, 1, epoch=0)
    for batch, indices in zip(train.ahead(order), order, strict=True):
        assert torch.equal(batch.indices, indices)
        assert torch.equal(batch.pixels, pixels[indices])
    assert torch.equal(train.pixels(order[0]), pixels[order[0]])
    stream = train.ahead(order)
    next(stream)
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith(("images", "blocks")):
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_an_epoch_reads_each_block_once(
    copy: PackedDataset, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = count_blocks(monkeypatch)
    train = open_split(copy, "train", CPU)
    for order in _orders(config, train, 2, epoch=0):
        assert sum(1 for _ in train.ahead(order)) == len(order)
    assert len(read) <= len(set(read)) + 1, "one block at the border of two workers is read by both"


def test_a_network_that_is_whitened_reads_few_blocks_before_the_first_epoch(
    copy: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = count_blocks(monkeypatch)
    start(preset("smoke", copy.info, "fastcnn"), copy)
    assert 0 < len(read) <= encoded_split.FEW_BLOCKS < open_split(copy, "train", CPU)._store.shards.blocks


def test_a_model_learns_from_shards_what_it_learns_from_arrays(
    copy: PackedDataset, digits: PackedDataset, tmp_path: Path
) -> None:
    config = override(preset("smoke", digits.info, "cnn"), ["epochs=6", "lr=0.01", "batch_size=50"])
    fit(config, copy, on_epoch=lambda metrics, snapshot: snapshot.save(tmp_path))
    predictor = Predictor.load(tmp_path, engine="reference")
    found, packed = (evaluate(predictor, dataset, "test") for dataset in (copy, digits))
    assert found.accuracy == packed.accuracy > 0.9
    assert found.metrics("test") == packed.metrics("test")


def test_a_smaller_network_image_is_resized_as_a_packed_copy_is(
    copy: PackedDataset, digits: PackedDataset
) -> None:
    there, here = at_size(copy, 6), at_size(digits, 6)
    assert there.path == copy.path
    for split in ("train", "val"):
        assert np.array_equal(there.images(split)[:], here.images(split))


def test_a_damaged_shard_ends_the_training_and_is_named(copy: PackedDataset, config: Config) -> None:
    file = sorted((copy.path / "train").glob("shard-*"))[1]
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-00001\.parquet cannot be read"):
        fit(config, copy, on_epoch=lambda metrics, snapshot: None)


def test_a_probe_reads_shards(copy: PackedDataset, digits: PackedDataset) -> None:
    losses = []
    for dataset in (copy, digits):
        training = start(override(preset("probe", digits.info, "cnn"), ["precision=fp32"]), dataset)
        ((metrics, _),) = training.epochs()
        losses.append(metrics["val_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_blocks_in_memory_are_those_of_two_windows(
    copy: PackedDataset, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "AHEAD", 4)
    train = open_split(copy, "train", CPU)
    (order,) = _orders(config, train, 1, epoch=0)
    most = 0
    with encoded.Reading(copy.encoded_images("train"), [batch.numpy() for batch in order]) as reading:
        for rows in reading.batches():
            reading.gather(rows, np.empty((len(rows), 8, 8, 3), np.uint8))
            most = max(most, len(reading._read))
    assert 4 < most <= 8


def test_frozen_stages_read_each_image_once_for_all_epochs(
    copy: PackedDataset, digits: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        "epochs=2",
        "batch_size=50",
        "precision=fp32",
        "precision=fp32",
        "frozen_stages=3",
        "reduced_share=0",
        "translate=0",
    ]
    config = override(preset("smoke", digits.info, "timm/test_efficientnet.r160_in1k"), settings)
    read: list[str] = []
    block = shards.Shards.block

    def counted(self: shards.Shards, number: int) -> object:
        read.append(f"{self._folder.name}/{number}")
        return block(self, number)

    monkeypatch.setattr(shards.Shards, "block", counted)
    training = start(config, copy)
    blocks = [name for name in read if name.startswith("train")]
    assert len(blocks) == len(set(blocks)) > 1
    assert len(list(training.epochs())) == 2
    assert [name for name in read if name.startswith("train")] == blocks
