"""The images of each training step: the splits as tensors, and the order of the images in an epoch.

    train = Split(open_dataset("cifar10"), "train", torch.device("cpu"))
    order = EpochOrder(config, train, rank=0)
    for indices in order.batches(epoch=0): images = train.images[indices]

Each epoch seeds its random numbers from (seed, epoch). So a resumed run computes the same as an uninterrupted one, and
all workers use the same order. This module knows neither networks nor losses.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from raycls.config import Config
from raycls.data.packed import PackedDataset
from raycls.data.tensors import as_tensor

DEVICE_SHARE = 0.5  # the largest share of an accelerator's free memory that a split may use
# Bytes of images. A smaller split stays in memory on any machine that can run PyTorch.
READ_AHEAD_FROM = 256 << 20
# Bytes of one read request. This is Linux's default read-ahead; the kernel may ignore the rest of a longer request.
LEAST_READ_AHEAD = 128 << 10


class Split:
    """The images (uint8 N×S×S×3) and labels (int64 N) of one split. `chosen` (int64): the indices in use.

    On a CPU, the images are the memory map itself. The kernel reads its pages and drops them if memory is short, so a
    split may be larger than memory. An accelerator gets a copy if it fits into DEVICE_SHARE of the free memory.
    Otherwise batches are gathered from the map.
    """

    def __init__(self, dataset: PackedDataset, split: str, device: torch.device, count: int | None = None):
        images = dataset.images(split)
        self.images = as_tensor(images)
        self.labels = as_tensor(dataset.labels(split))
        if device.type != "cpu" and self.images.nbytes < DEVICE_SHARE * _free_memory(device):
            self.images, self.labels = self.images.to(device), self.labels.to(device)
        mapped = self.images.device.type == "cpu" and images.nbytes >= READ_AHEAD_FROM
        self._pages = _Pages(images) if mapped and isinstance(images, np.memmap) else None
        self.chosen = _sample(self.labels.cpu(), count).to(self.labels.device)

    def read_ahead(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the same batches of indices (int64). Before each batch, the kernel begins to read the next batch.

        Nothing is read ahead if the split is in an accelerator's memory or smaller than READ_AHEAD_FROM.
        """
        if not self._pages:
            yield from batches
            return
        present = None
        for upcoming in batches:
            self._pages.begin_to_read(upcoming)
            if present is not None:
                yield present
            present = upcoming
        if present is not None:
            yield present

    def class_weights(self, num_classes: int) -> Tensor:
        """Return the weight of each class, float32 num_classes. All weights are 1 for a balanced split.

        A weight is inversely proportional to the number of the class's images in use.
        """
        counts = torch.bincount(self.labels[self.chosen], minlength=num_classes).clamp(min=1)
        return len(self.chosen) / (num_classes * counts)


def _sample(labels: Tensor, count: int | None) -> Tensor:
    """Return the indices of `count` images in random order, each class in proportion; None: of all.

    A class has at least one image where there are as many as classes. Every seed and configuration uses the same ones,
    so the trials of a study are comparable, and a smaller sample is part of a larger one.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    if count is None or count >= len(labels):
        return order
    shuffled = labels[order]
    by_class = torch.argsort(shuffled, stable=True)
    counts = torch.bincount(shuffled)
    first = counts.cumsum(0) - counts
    of = shuffled[by_class]
    # The share of its class that comes before an image: 0 for the first of each class.
    before = torch.empty(len(labels), dtype=torch.float64)
    before[by_class] = (torch.arange(len(labels)) - first[of]) / counts[of].double()
    return order[torch.argsort(before, stable=True)[:count]]


class _Pages:
    """The pages of memory-mapped images. The kernel reads only the pages of the requested images.

    By default, the kernel also reads the pages around a missing page, up to the disk's read-ahead size. Batches are
    random, so these neighbours are rarely needed soon. When memory is short, the kernel drops them before they are
    used, and reads the split many times over.
    """

    def __init__(self, images: np.memmap):
        self._map = cast(mmap.mmap, images.base)
        self._first, self._bytes = images.offset % mmap.ALLOCATIONGRANULARITY, images[0].nbytes
        self._map.madvise(mmap.MADV_RANDOM)

    def begin_to_read(self, indices: Tensor) -> None:
        """Ask the kernel to read these images. Do not wait for it."""
        for index in indices.tolist():
            start = self._first + index * self._bytes
            end = start + self._bytes
            for piece in range(start - start % mmap.PAGESIZE, end, LEAST_READ_AHEAD):
                self._map.madvise(mmap.MADV_WILLNEED, piece, min(LEAST_READ_AHEAD, end - piece))


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def images_in_use(config: Config, dataset: PackedDataset) -> int:
    """Return how many training images are used: the share `train_fraction` of the split, at least one."""
    return max(1, round(dataset.info.counts["train"] * config.training.train_fraction))


class EpochOrder:
    """The batches of each epoch, and the random generators of this worker's augmentation. `batches` seeds them.

    views: a generator on the images' device. pixels: a generator on the network's device. The two devices differ only
    if the split is too large for the network's device.
    """

    def __init__(self, config: Config, train: Split, rank: int, device: torch.device):
        self._train, self._rank = train, rank
        self._seed, self._batch_size = config.training.seed, config.training.batch_size
        self._balanced = config.training.balance == "sampling"
        self.steps = len(train.chosen) // self._batch_size
        self.views, self.pixels = torch.Generator(train.images.device), torch.Generator(device)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the indices (int64, batch_size) of each step. They are the same on every worker.

        Images beyond the last whole batch are not used in this epoch. This also seeds PyTorch's global generator, which
        dropout uses.
        """
        seeds = [
            self._derived(epoch, stream) for stream in (0, *range(1 + 3 * self._rank, 4 + 3 * self._rank))
        ]
        generator = torch.Generator().manual_seed(seeds[0])
        self.views.manual_seed(seeds[1])
        self.pixels.manual_seed(seeds[2])
        torch.manual_seed(seeds[3])
        chosen = self._train.chosen
        if self._balanced:
            labels = self._train.labels[chosen].cpu()
            drawn = torch.multinomial(
                1 / torch.bincount(labels)[labels], len(labels), replacement=True, generator=generator
            )
        else:
            drawn = torch.randperm(len(chosen), generator=generator)
        order = chosen[drawn.to(chosen.device)]
        yield from order[: self.steps * self._batch_size].split(self._batch_size)

    def mirrored(self, indices: Tensor, epoch: int) -> Tensor:
        """Return which images are flipped, as bool. Each image is flipped in every second epoch (airbench).

        A hash of the image's index decides which half is flipped first. So all workers and resumed runs agree on it.
        """
        start = ((indices + self._seed) * 2654435761 >> 15) & 1  # Knuth's multiplicative hash
        return (start + epoch) % 2 == 1

    def _derived(self, epoch: int, stream: int) -> int:
        return int(np.random.SeedSequence((self._seed, epoch, stream)).generate_state(1, np.uint64)[0] >> 1)
