"""The processes that train one network together: each process's part of a batch, and the mean of their tensors.

    workers = Workers(rank=0, size=2)
    workers.average([loss])

raycls/training/data_parallel.py averages the gradients. This module uses torch.distributed. It does not know Ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

MESSAGE = 64 << 20  # bytes of one message, where a tensor is as large as a dataset


@dataclass(frozen=True)
class Workers:
    """This process among the `size` processes that train together.

    If `size` > 1, they must be in PyTorch's default process group.
    """

    rank: int = 0
    size: int = 1

    def share(self, indices: Tensor) -> Tensor:
        """Return this worker's part of a batch. Parts differ by at most one image."""
        return indices.tensor_split(self.size)[self.rank]

    def weight(self, part: int, batch: int) -> float:
        """Return by what a mean over this worker's part of a batch counts, so that all means average to the batch's.

        part, batch: numbers of images. 1 where the parts are equal.
        """
        return part * self.size / batch

    def complete(self, parts: Tensor, device: torch.device) -> None:
        """Put together a contiguous tensor of which each worker has made its part, and the rest of which is 0.

        device: the workers'. The tensor may be in the host's memory, from where NCCL sends nothing.
        """
        if self.size == 1:
            return
        for piece in parts.view(-1).view(torch.uint8).split(MESSAGE):
            sent = piece.to(device)
            dist.all_reduce(sent)  # the sum of a byte and zeros, for any dtype
            piece.copy_(sent)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first worker."""
        if self.size == 1:
            return
        for tensor in tensors:
            first = tensor.detach().contiguous()
            dist.broadcast(first, 0)
            tensor.detach().copy_(first)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the workers.

        All tensors go in one message, because latency dominates for small networks.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))
