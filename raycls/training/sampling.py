"""The images that a step sees: splits as tensors, and the order of the images in an epoch.

    train = Split(open_dataset("cifar10"), "train", torch.device("cpu"))
    order = EpochOrder(config, train, rank=0)
    for indices in order.batches(epoch=0): images = train.images[indices]

Every epoch seeds its own random numbers from (seed, epoch): a resumed run repeats the undisturbed one, and all workers
agree on the order. Knows neither networks nor losses.
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

DEVICE_SHARE = 0.5  # of the free memory of an accelerator: what a split may take of it
READ_AHEAD_FROM = 256 << 20  # bytes of images: a smaller split stays in memory wherever PyTorch itself fits
# Bytes asked for at once: Linux's default read-ahead, beyond which it may leave out the rest.
LEAST_READ_AHEAD = 128 << 10


class Split:
    """One split's images (uint8 N×S×S×3) and labels (int64 N) where the device reaches them.

    On a CPU the images are the memory map itself: the kernel reads pages and drops them when memory is short, so a
    split may be larger than memory. An accelerator gets a copy as long as it fits into DEVICE_SHARE of its free
    memory; else batches are gathered from the map. `chosen` (int64) are the indices in use.
    """

    def __init__(self, dataset: PackedDataset, split: str, device: torch.device, count: int | None = None):
        images = dataset.images(split)
        self.images = as_tensor(images)
        self.labels = as_tensor(dataset.labels(split))
        if device.type != "cpu" and self.images.nbytes < DEVICE_SHARE * _free_memory(device):
            self.images, self.labels = self.images.to(device), self.labels.to(device)
        mapped = self.images.device.type == "cpu" and images.nbytes >= READ_AHEAD_FROM
        self._pages = _Pages(images) if mapped else None
        # The same images for every seed and configuration: studies compare like with like.
        sample = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0))
        self.chosen = sample[:count].to(self.labels.device)

    def read_ahead(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same batches of indices (int64); before one is given out the kernel begins to read the next one's images.

        Of a split in an accelerator's memory, or of less than READ_AHEAD_FROM, nothing is read.
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
        """float32, num_classes: inversely proportional to each class's images in use; 1 for a balanced split."""
        counts = torch.bincount(self.labels[self.chosen], minlength=num_classes).clamp(min=1)
        return len(self.chosen) / (num_classes * counts)


class _Pages:
    """The pages of mapped images, read for those images alone.

    Left to itself the kernel answers a missing page by reading around it, as much as the disk's read-ahead says. Where
    memory is short these neighbours are gone again before they are asked for: with a read-ahead of 8 MiB, a split of
    1.7 GB in 1.5 GiB was read seventy times over.
    """

    def __init__(self, images: np.memmap):
        self._map = cast(mmap.mmap, images.base)
        self._first, self._bytes = images.offset % mmap.ALLOCATIONGRANULARITY, images[0].nbytes
        self._map.madvise(mmap.MADV_RANDOM)

    def begin_to_read(self, indices: Tensor) -> None:
        for index in indices.tolist():
            start = self._first + index * self._bytes
            end = start + self._bytes
            for piece in range(start - start % mmap.PAGESIZE, end, LEAST_READ_AHEAD):
                self._map.madvise(mmap.MADV_WILLNEED, piece, min(LEAST_READ_AHEAD, end - piece))


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def images_in_use(config: Config, dataset: PackedDataset) -> int:
    return max(1, round(dataset.manifest.counts["train"] * config.training.train_fraction))


class EpochOrder:
    """The batches of each epoch, and the generators of this worker's random views, seeded anew by `batches`.

    `views` draws where the images are, `pixels` where the network is: one device, unless the split is too large for it.
    """

    def __init__(self, config: Config, train: Split, rank: int, device: torch.device):
        self._train, self._rank = train, rank
        self._seed, self._batch_size = config.training.seed, config.training.batch_size
        self._balanced = config.training.balance == "sampling"
        self.steps = len(train.chosen) // self._batch_size
        self.views, self.pixels = torch.Generator(train.images.device), torch.Generator(device)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Indices (int64, batch_size) of each step, the same on every worker; images beyond the last whole batch
        wait for another epoch.

        Seeds torch's global generator as well, which dropout draws from.
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
        """Which images are flipped (bool): a random half at first, then each image every other epoch (airbench).

        The half is a hash of the image's index, so that every worker and every resumed run agrees on it.
        """
        start = ((indices + self._seed) * 2654435761 >> 15) & 1  # Knuth's multiplicative hash
        return (start + epoch) % 2 == 1

    def _derived(self, epoch: int, stream: int) -> int:
        return int(np.random.SeedSequence((self._seed, epoch, stream)).generate_state(1, np.uint64)[0] >> 1)
