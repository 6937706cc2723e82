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

from raycls.config import override, preset
from raycls.data.packed import PackedDataset, open_dataset
from raycls.training import sampling
from raycls.training.loop import fit
from raycls.training.sampling import Split

SIDE, IMAGES = 64, 2_000  # 12 KiB an image, three pages
HEADER = 256  # pages: what opening an array may read, the array's header and what the kernel reads around it


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackedDataset:
    """A split whose file the kernel holds no page of, and which counts as larger than what stays in memory."""
    monkeypatch.setattr(sampling, "READ_AHEAD_FROM", 1)
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train/labels.npy", np.zeros(IMAGES, np.int64))
    images = tmp_path / "train/images.npy"
    np.save(images, np.random.default_rng(0).integers(256, size=(IMAGES, SIDE, SIDE, 3), dtype=np.uint8))
    with images.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    dataset = PackedDataset(tmp_path, None)  # type: ignore[arg-type]  # the manifest is not asked
    if _resident(dataset.images("train"))[HEADER:].any():
        pytest.skip(f"{tmp_path} is on a file system that holds its files in memory")
    return dataset


def _resident(images: np.memmap) -> np.ndarray:
    """Which pages of the file are in memory, bool (mincore(2))."""
    size = len(images.base)
    address = images.ctypes.data - images.offset % mmap.ALLOCATIONGRANULARITY
    answer = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(answer.ctypes.data)):
        raise OSError(ctypes.get_errno(), "mincore")
    return answer & 1 == 1


def _pages_of(images: np.memmap, index: int) -> range:
    start = images.offset + index * images[0].nbytes
    return range(start // mmap.PAGESIZE, (start + images[0].nbytes - 1) // mmap.PAGESIZE + 1)


def test_reading_ahead_reads_this_batch_and_the_next_and_nothing_else(large: PackedDataset) -> None:
    split, images = Split(large, "train", torch.device("cpu")), large.images("train")
    batches = split.read_ahead([torch.tensor([300, 700]), torch.tensor([IMAGES - 1]), torch.tensor([1_500])])
    assert next(batches).tolist() == [300, 700]
    expected = {page for index in (300, 700, IMAGES - 1) for page in _pages_of(images, index)}
    deadline = time.monotonic() + 10
    while (resident := set(np.flatnonzero(_resident(images)))) < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {page for page in resident if page >= HEADER} == expected


def test_a_missing_page_is_read_without_its_neighbours(large: PackedDataset) -> None:
    split, images = Split(large, "train", torch.device("cpu")), large.images("train")
    split.images[torch.tensor([1_000])]
    resident = np.flatnonzero(_resident(images))
    assert set(resident[resident >= HEADER]) == set(_pages_of(images, 1_000))


def test_reading_ahead_gives_every_batch_in_order(large: PackedDataset) -> None:
    split = Split(large, "train", torch.device("cpu"))
    batches = torch.randperm(IMAGES).split(300)
    assert [batch.tolist() for batch in split.read_ahead(batches)] == [batch.tolist() for batch in batches]
    assert list(split.read_ahead([])) == []


def test_reading_ahead_changes_no_result(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset("digits")
    config = override(preset("smoke", dataset.manifest), ["epochs=2", "precision=fp32"])
    plain = fit(config, dataset, on_epoch=lambda metrics, snapshot: None)
    monkeypatch.setattr(sampling, "READ_AHEAD_FROM", 1)
    ahead = fit(config, dataset, on_epoch=lambda metrics, snapshot: None)
    for name, weights in plain.state_dict().items():
        assert torch.equal(weights, ahead.state_dict()[name]), name
