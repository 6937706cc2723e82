"""One network on several workers: its forward pass, and the mean of its gradients over the workers.

    network = synchronised(network, workers, batch_size, device)   # before the optimiser and an average are made
    parallel = DataParallel(network, workers, device)
    loss = cross_entropy(parallel(inputs), targets)
    loss.backward()
    parallel.average_gradients()

On GPUs, PyTorch's DistributedDataParallel averages each gradient while the rest of the backward pass goes on. On CPUs
the same cores compute and send: it took the same time and gave the same bits (benchmarks/README.md has the figures). So
all gradients go in one message there after the backward pass, which has no state that must follow frozen layers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from raycls.models.base import Network
from raycls.training.workers import Workers

# Images of one worker. With fewer, a batch norm's own statistics cost accuracy: 23.7% wrong with 16, 24.8% with 8,
# 27.3% with 4 (Wu and He, arXiv:1803.08494).
SYNCED_BELOW = 16


def synchronised(network: Network, workers: Workers, batch_size: int, device: torch.device) -> Network:
    """Return the network, whose batch norms take the images of all workers where one worker has too few.

    On CPUs they never do: PyTorch has SyncBatchNorm for accelerators alone. Names and values of weights stay.
    """
    if device.type == "cpu" or workers.size == 1 or batch_size // workers.size >= SYNCED_BELOW:
        return network
    from timm.layers import convert_sync_batchnorm  # as PyTorch's, for timm's norms with an activation too

    converted: Network = convert_sync_batchnorm(network)
    return converted


class DataParallel:
    """Calls the network, and averages its gradients over the workers.

    overlap: whether this happens in the backward pass; by default on accelerators. Buffers are each worker's own.
    """

    def __init__(self, network: Network, workers: Workers, device: torch.device, overlap: bool | None = None):
        self.network, self._workers = network, workers
        self._overlap = workers.size > 1 and (device.type != "cpu" if overlap is None else overlap)
        self._wrapped: DistributedDataParallel | None = None
        self._learning: list[bool] = []  # which parameters of `_wrapped` have a gradient

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the network's answer: float N×C, of normalised images N×3×H×W."""
        if self._wrapped and self._learning != self._with_gradient():
            self._wrapped = None  # which layers are frozen has changed
        answer: Tensor = (self._wrapped or self.network)(inputs)
        return answer

    def average_gradients(self) -> None:
        """Replace the gradients by their means over the workers. To be called after each backward pass."""
        if self._wrapped:
            return
        self._workers.average([p.grad for p in self.network.parameters() if p.grad is not None])
        if self._overlap:
            self._learning = self._with_gradient()
            self._wrapped = DistributedDataParallel(
                self.network,
                # Their mean is taken after each epoch. At this place, they would be replaced by the first worker's.
                init_sync=False,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
                # Only a backward pass shows which parameters have no part in the answer.
                find_unused_parameters=any(
                    p.requires_grad and p.grad is None for p in self.network.parameters()
                ),
            )

    def _with_gradient(self) -> list[bool]:
        return [parameter.requires_grad for parameter in self.network.parameters()]
