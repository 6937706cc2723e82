"""The images of each training step: the splits as tensors, and the order of the images in an epoch.

    train = Split(open_dataset("cifar10"), "train", torch.device("cpu"))
    order = EpochOrder(config, train, Workers())
    for batch in train.ahead(order.batches(epoch=0)): images = batch.images[batch.rows]

Each epoch seeds its random numbers from (seed, epoch), and each part of a long epoch from (seed, epoch, step). So a
resumed run computes the same as an uninterrupted one. raycls/training/encoded_split.py has the split that is read from
shards. This module knows neither networks nor losses.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from raycls.config import Config
from raycls.data.packed import PackedDataset
from raycls.data.tensors import as_tensor
from raycls.training.memory import free_memory
from raycls.training.streaming import source_of, streamed
from raycls.training.workers import Workers

DEVICE_SHARE = 0.5  # the largest share of an accelerator's free memory that a split may use
# Bytes of images. A smaller split stays in memory on any machine that can run PyTorch.
READ_AHEAD_FROM = 256 << 20
# Bytes of one read request. This is Linux's default read-ahead; the kernel may ignore the rest of a longer request.
LEAST_READ_AHEAD = 128 << 10
# Pixels of the images of a part of an epoch, after which the state of the training can be kept: 20,000 photographs of
# 224 pixels a side, or 1,000,000 pictures of 32.
PART_PIXELS = 1_000_000_000


@dataclass(frozen=True)
class Batch:
    """The images of one step, on the device of the network.

    indices: int64 B, in the split. images: uint8 M×S×S×3, the whole split or this batch. rows: int64 B, in `images`.
    """

    indices: Tensor
    images: Tensor
    rows: Tensor

    @property
    def pixels(self) -> Tensor:
        """Return the images of the batch alone, uint8 B×S×S×3."""
        return self.images[self.rows]


class Split:
    """The images (uint8 N×S×S×3) and labels (int64 N) of one split. `chosen` (int64): the indices in use.

    On a CPU, the images are the memory map itself. The kernel reads its pages and drops them if memory is short, so a
    split may be larger than memory. An accelerator gets a copy if it fits into DEVICE_SHARE of the free memory.
    Otherwise threads gather batches from the map, ahead of the steps. Labels are always on the device. by_worker:
    whether `order` depends on the number of workers.
    """

    by_worker = False

    def __init__(self, dataset: PackedDataset, split: str, device: torch.device, count: int | None = None):
        images = dataset.array(split)
        labels = as_tensor(dataset.labels(split))
        self.images, self.labels, self.device = as_tensor(images), labels.to(device), device
        if device.type != "cpu" and self.images.nbytes < DEVICE_SHARE * free_memory(device):
            self.images = self.images.to(device)
        self.streamed = self.images.device.type != device.type
        mapped = self.images.device.type == "cpu" and images.nbytes >= READ_AHEAD_FROM
        self._pages = _Pages(images) if mapped and isinstance(images, np.memmap) else None
        self.chosen = sample(labels, count).to(self.images.device)

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield each batch of indices (int64, on the device of `chosen`) with its images."""
        if self.streamed:
            for indices, images in streamed(source_of(self.images), self.read_ahead(batches), self.device):
                yield Batch(indices, images, torch.arange(len(indices), device=self.device))
        else:
            for indices in self.read_ahead(batches):
                yield Batch(indices, self.images, indices)

    def every(self) -> Tensor:
        """Return the indices of all images, in order: int64 N, as `ahead` takes them."""
        return torch.arange(len(self.labels), device=self.chosen.device)

    def few(self, count: int) -> Tensor:
        """Return the indices (int64) of some images in use, `count` at most, that are quickly read."""
        return self.chosen[:count]

    def order(
        self, generator: torch.Generator, batch_size: int, workers: Workers, *, balanced: bool
    ) -> list[Tensor]:
        """Return this worker's indices (int64) of each step of an epoch, in random order.

        The batches are the same whatever the number of workers. balanced: every class is drawn equally often.
        """
        chosen = self.chosen
        if balanced:
            labels = self.labels[chosen].cpu()
            drawn = torch.multinomial(
                1 / torch.bincount(labels)[labels], len(labels), replacement=True, generator=generator
            )
        else:
            drawn = torch.randperm(len(chosen), generator=generator)
        order = chosen[drawn.to(chosen.device)]
        steps = len(chosen) // batch_size
        return [workers.share(batch) for batch in order[: steps * batch_size].split(batch_size)]

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images at these indices (int64 B), uint8 B×S×S×3 on the network's device."""
        (batch,) = self.ahead([indices.to(self.images.device)])
        return batch.pixels

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


def sample(labels: Tensor, count: int | None, order: Tensor | None = None) -> Tensor:
    """Return the indices of `count` images, each class in proportion; None: of all.

    order: in which images are taken, int64 N; default: a random one. A class has at least one image where there are as
    many as classes. Every seed and configuration uses the same ones, so the trials of a study are comparable, and a
    smaller sample is part of a larger one.
    """
    if order is None:
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


def images_in_use(config: Config, dataset: PackedDataset) -> int:
    """Return how many training images are used: the share `train_fraction` of the split, at least one."""
    return max(1, round(dataset.info.counts["train"] * config.training.train_fraction))


class EpochOrder:
    """This worker's batches of each epoch, and the random generators of its augmentation, which `seed` seeds.

    views: for what is done to uint8 pixels. pixels: for what is done to inputs. Both are on the network's device.
    steps: of an epoch. part: the steps after which the generators are seeded anew.
    """

    def __init__(self, config: Config, train: Split, workers: Workers = Workers(), side: int = 1):
        self._train, self._workers = train, workers
        self._seed, self._batch_size = config.training.seed, config.training.batch_size
        self._balanced = config.training.balance == "sampling"
        self.steps = len(train.chosen) // self._batch_size
        self.part = max(1, PART_PIXELS // (self._batch_size * side**2))
        self.views, self.pixels = torch.Generator(train.device), torch.Generator(train.device)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Tensor]:
        """Yield this worker's indices (int64) of each step, from the step `first` on.

        Images beyond the last whole batch are not used in this epoch.
        """
        generator = torch.Generator().manual_seed(self._derived(epoch, 0))
        order = self._train.order(generator, self._batch_size, self._workers, balanced=self._balanced)
        yield from order[first:]

    def seed(self, epoch: int, step: int) -> None:
        """Seed the generators of this worker, and PyTorch's global one, which dropout uses, before a step."""
        rank, more = self._workers.rank, (step,) if step else ()
        seeds = [self._derived(epoch, stream, *more) for stream in range(1 + 3 * rank, 4 + 3 * rank)]
        self.views.manual_seed(seeds[0])
        self.pixels.manual_seed(seeds[1])
        torch.manual_seed(seeds[2])

    def mirrored(self, indices: Tensor, epoch: int) -> Tensor:
        """Return which images are flipped, as bool. Each image is flipped in every second epoch (airbench).

        A hash of the image's index decides which half is flipped first. So all workers and resumed runs agree on it.
        """
        start = ((indices + self._seed) * 2654435761 >> 15) & 1  # Knuth's multiplicative hash
        return (start + epoch) % 2 == 1

    def _derived(self, epoch: int, stream: int, *step: int) -> int:
        entropy = (self._seed, epoch, stream, *step)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
