"""The processes that train one network together: each process's part of a batch, and the mean of their tensors.

    workers = Workers(rank=0, size=2)
    workers.average([loss])

This module uses torch.distributed. It does not know Ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


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

    def complete(self, parts: Tensor) -> None:
        """Put together a tensor of which each worker has made its part, and the rest of which is 0."""
        if self.size > 1:
            dist.all_reduce(parts.view(torch.uint8))  # the sum of a byte and zeros, for any dtype

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
