"""Pages of a split that does not stay in memory, on a real file."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.training import sampling
from raycls.training.loop import fit
from raycls.training.presets import preset
from raycls.training.sampling import Split
from raycls.training.setup import whitening_sample

SIDE, IMAGES = 64, 2_000  # 12 KiB an image
# Bytes of the file that opening the array may read: its header, with what the kernel reads around that.
HEADER = 8 << 20


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """A split that counts as larger than what stays in memory."""
    monkeypatch.setattr(sampling, "READ_AHEAD_FROM", 1)
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train/labels.npy", np.zeros(IMAGES, np.int64))
    images = np.random.default_rng(0).integers(256, size=(IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    np.save(tmp_path / "train/images.npy", images)
    return Split(_dataset(tmp_path), "train", torch.device("cpu"))


@pytest.fixture
def cold(split: Split, tmp_path: Path) -> np.memmap:
    """The images of `split`, of which the kernel holds no page."""
    with (tmp_path / "train/images.npy").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    images = _dataset(tmp_path).array("train")
    if _resident(images):
        pytest.skip(f"{tmp_path} is on a file system that holds its files in memory")
    return images


def _dataset(path: Path) -> PackedDataset:
    return PackedDataset(path, None)  # type: ignore[arg-type]  # the info is not asked


def _resident(images: np.memmap) -> set[int]:
    """Which pages of the file are in memory (mincore(2)), but for those that opening it may read."""
    size = len(images.base)
    address = images.ctypes.data - images.offset % mmap.ALLOCATIONGRANULARITY
    answer = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(answer.ctypes.data)):
        raise OSError(ctypes.get_errno(), "mincore")
    return {page for page in np.flatnonzero(answer & 1) if page * mmap.PAGESIZE >= HEADER}


def _pages_of(images: np.memmap, *indices: int) -> set[int]:
    size = images[0].nbytes
    starts = [images.offset + index * size for index in indices]
    return {
        page
        for start in starts
        for page in range(start // mmap.PAGESIZE, (start + size - 1) // mmap.PAGESIZE + 1)
    }


def test_reading_ahead_reads_this_batch_and_the_next_and_nothing_else(split: Split, cold: np.memmap) -> None:
    batches = split.read_ahead(
        [torch.tensor([900, 1_200]), torch.tensor([IMAGES - 1]), torch.tensor([1_500])]
    )
    assert next(batches).tolist() == [900, 1_200]
    expected = _pages_of(cold, 900, 1_200, IMAGES - 1)
    deadline = time.monotonic() + 10
    while not expected <= _resident(cold) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _resident(cold) == expected


def test_a_large_image_is_read_ahead_whole(
    split: Split, cold: np.memmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "LEAST_READ_AHEAD", mmap.PAGESIZE)  # an image of several pieces
    assert len(list(split.read_ahead([torch.tensor([1_000])]))) == 1
    deadline = time.monotonic() + 10
    while not _pages_of(cold, 1_000) <= _resident(cold) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _resident(cold) == _pages_of(cold, 1_000)


def test_a_missing_page_is_read_without_its_neighbours(split: Split, cold: np.memmap) -> None:
    split.images[torch.tensor([1_000])]
    assert _resident(cold) == _pages_of(cold, 1_000)


def test_reading_ahead_gives_every_batch_in_order(split: Split) -> None:
    batches = torch.randperm(IMAGES).split(300)
    assert [batch.tolist() for batch in split.read_ahead(batches)] == [batch.tolist() for batch in batches]
    assert list(split.read_ahead([])) == []


def test_training_reads_all_its_images_ahead_and_ends_where_it_did(
    digits_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset("digits")
    config = override(preset("smoke", dataset.info), ["epochs=2", "precision=fp32"])
    plain = fit(config, dataset, on_epoch=lambda metrics, snapshot: None)
    monkeypatch.setattr(sampling, "READ_AHEAD_FROM", 1)
    read: list[int] = []
    begin = sampling._Pages.begin_to_read

    def counted(pages: sampling._Pages, indices: torch.Tensor) -> None:
        read.append(len(indices))
        begin(pages, indices)

    monkeypatch.setattr(sampling._Pages, "begin_to_read", counted)
    ahead = fit(config, dataset, on_epoch=lambda metrics, snapshot: None)
    for name, weights in plain.state_dict().items():
        assert torch.equal(weights, ahead.state_dict()[name]), name
    train, val = (dataset.info.counts[name] for name in ("train", "val"))
    size = config.training.batch_size
    whitened = min(train, whitening_sample(dataset.info.image_size))
    assert sum(read) == whitened + 2 * (train // size * size + val)


def test_a_small_share_of_the_images_has_every_class_in_proportion() -> None:
    labels = torch.tensor([0] * 900 + [1] * 95 + [2] * 5)[torch.randperm(1000)]
    few, some, half = (sampling.sample(labels, count) for count in (3, 100, 500))
    assert labels[few].bincount().tolist() == [1, 1, 1]
    assert labels[some].bincount().tolist() == [89, 10, 1]
    assert labels[half].bincount().tolist() == [449, 48, 3]
    assert set(few.tolist()) < set(some.tolist()) < set(half.tolist())
    assert len(set(half.tolist())) == 500
    assert sorted(sampling.sample(labels, None).tolist()) == list(range(1000))
    assert torch.equal(sampling.sample(labels, 1000), sampling.sample(labels, None))
