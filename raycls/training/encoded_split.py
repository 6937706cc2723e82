"""A split that is read from its shards while it trains: from this machine or from the storage path, decoded by threads.

    train = open_split(dataset, "train", device)      # a Split: of arrays, or this one where the version is encoded

An epoch takes the blocks of all shards in random order, and the images of WINDOW blocks in random order. Each worker
has blocks of its own, so an epoch reads each byte once, whatever the number of workers. The images of a version lie in
the order of their digests (raycls/data/assemble.py), so a block is a random sample already.

In memory are the blocks of a window, those of the next one, and a few decoded batches. This module knows rows and
batches. raycls/data/encoded.py knows files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from raycls.data.encoded import Reading
from raycls.data.packed import PackedDataset
from raycls.data.tensors import as_tensor
from raycls.training.sampling import Batch, Split, sample
from raycls.training.streaming import Source, streamed
from raycls.training.workers import Workers

WINDOW = 16  # blocks whose images are mixed: some 64 MB of files
REPEATS = 10  # how often an image comes in an epoch, at most, where classes are drawn equally often
FEW_BLOCKS = 4  # at most, that are read before the first epoch: a network that sees small images asks for 5,000 of them
LEAST_THREADS = 2  # that decode, also beside a network that has one core


def open_split(dataset: PackedDataset, split: str, device: torch.device, count: int | None = None) -> Split:
    """Return a split of a version. count: how many of its images to use; None: all."""
    kind = EncodedSplit if dataset.info.store == "encoded" else Split
    return kind(dataset, split, device, count)


class EncodedSplit(Split):
    """The images of an encoded split. `chosen` (int64) is in the order of the files: few blocks hold a sample."""

    by_worker = True

    def __init__(self, dataset: PackedDataset, split: str, device: torch.device, count: int | None = None):
        self._store = dataset.encoded_images(split)
        labels = as_tensor(dataset.labels(split))
        self.labels, self.device, self.streamed = labels.to(device), device, True
        self.chosen = sample(labels, count, torch.arange(len(labels))).sort().values

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield each batch of indices (int64, on the CPU) with its images. Threads decode the next ones meanwhile.

        Each block is read once if its uses are close together, as they are in `order` and in the files.
        """
        with Reading(self._store, [indices.numpy() for indices in batches]) as reading:

            def gather(indices: Tensor, out: Tensor) -> None:
                reading.gather(indices.numpy(), out.numpy())

            source = Source(self._store.shape[1:], gather)
            threads = max(LEAST_THREADS, torch.get_num_threads())
            rows = map(torch.from_numpy, reading.batches())
            for indices, images in streamed(source, rows, self.device, threads):
                yield Batch(indices, images, torch.arange(len(indices), device=self.device))

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images at these indices (int64 B), uint8 B×S×S×3 on the network's device."""
        return as_tensor(self._store[indices.cpu().numpy()]).to(self.device)

    def few(self, count: int) -> Tensor:
        """Return the indices (int64) of some images in use, `count` at most, of the first blocks."""
        first = self.chosen // self._store.shards.shape.block
        return self.chosen[first < first[0] + FEW_BLOCKS][:count]

    def order(
        self, generator: torch.Generator, batch_size: int, workers: Workers, *, balanced: bool
    ) -> list[Tensor]:
        """Return this worker's indices (int64) of each step of an epoch. They depend on the number of workers.

        balanced: from each window, images are drawn in inverse proportion to the size of their class in the split, but
        none more than REPEATS times. So classes of more than a few images come equally often in an epoch, and a smaller
        one more rarely.
        """
        chosen = self.chosen.numpy()
        blocks, member_of = np.unique(chosen // self._store.shards.shape.block, return_inverse=True)
        place = torch.randperm(len(blocks), generator=generator).numpy()[member_of]  # of an image's block
        keys = torch.rand(len(chosen), generator=generator, dtype=torch.float64).numpy()
        steps = len(chosen) // batch_size
        shares = [len(part) for part in torch.arange(batch_size).tensor_split(workers.size)]
        first, size = steps * sum(shares[: workers.rank]), shares[workers.rank]
        mine = np.argsort(place, kind="stable")[first : first + steps * size]
        window = (place[mine] - place[mine[0]]) // WINDOW
        mine = mine[np.lexsort((keys[mine], window))]
        if balanced:
            labels = self.labels.cpu()[self.chosen]
            weights = 1 / torch.bincount(labels)[labels]
            parts = np.split(mine, np.cumsum(np.bincount(window))[:-1])
            drawn = [_drawn(weights[part], generator) for part in parts]
            mine = np.concatenate([part[found] for part, found in zip(parts, drawn, strict=True)])
        return list(torch.from_numpy(chosen[mine]).split(size))


def _drawn(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return as many positions as there are weights (float M), in random order: int64 M.

    Each comes about as often as its weight says, rounded up or down, and REPEATS times at most (systematic sampling:
    Madow, Annals of Mathematical Statistics 20, 1949). The others share what is above that.
    """
    count = len(weights)
    times = weights.double() * (count / weights.double().sum())
    while (times > REPEATS).any():
        most = times >= REPEATS
        times[most] = REPEATS
        times[~most] *= (count - REPEATS * int(most.sum())) / times[~most].sum()
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    picked = torch.searchsorted(times.cumsum(0), start + torch.arange(count), right=True).clamp(max=count - 1)
    return picked[torch.randperm(count, generator=generator)]
