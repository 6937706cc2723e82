"""The memory of an accelerator: what is free, and how many images of a training step fit into it.

    free = free_memory(torch.device("cuda"))
    most = largest_batch(network, 224, free)        # images of one worker

The number is an estimate: what the forward pass of a network keeps for the backward pass is counted without computing
it, on PyTorch's device `meta`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raycls.engines.build import best_device

# Of the free memory, for what a step keeps. The rest is for gradients of activations, workspaces and fragmentation.
STEP_SHARE = 0.4
COPIES = 5  # of the weights: themselves, their gradients, two moments of Adam, and their moving average


def free_memory(device: torch.device) -> int:
    """Return the bytes of an NVIDIA GPU that this process can still use.

    PyTorch keeps memory that it has freed. The driver counts it as used, and it is free for new tensors.
    """
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def gpu_memory() -> int | None:
    """Return what `free_memory` returns for this machine's first GPU, or None where it has none."""
    return free_memory(torch.device("cuda", 0)) if best_device() == "cuda" else None


def kept_bytes(network: nn.Module, side: int) -> int:
    """Return how many bytes of activations the forward pass of one image keeps for the backward pass, in float32.

    side: of the image, pixels. The network itself is moved to the device `meta`: its weights are lost.
    """
    network = network.to("meta").train()
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        if not (tensor.is_leaf and tensor.requires_grad):  # a weight
            kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network(torch.empty(2, 3, side, side, device="meta"))  # a batch norm takes no single image
    return kept // 2


def largest_batch(network: nn.Module, side: int, free: int) -> int:
    """Return how many images of this side (pixels) one worker can train on with `free` bytes, at least 2.

    The network's weights are lost, as by `kept_bytes`.
    """
    weights = COPIES * sum(parameter.nbytes for parameter in network.parameters())
    return max(2, int(STEP_SHARE * max(0, free - weights)) // kept_bytes(network, side))
