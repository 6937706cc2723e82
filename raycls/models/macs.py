"""How many multiplications a network takes for one image.

macs(build("resnet18", num_classes=10, image_size=224), 224)     # 1,813,566,464 multiply-accumulates
"""

from __future__ import annotations

import torch
from torch import nn


def macs(network: nn.Module, size: int) -> int:
    """Return the multiply-accumulates for one square image of `size` pixels. The network is in eval mode, on the CPU.

    Raises what the network raises for an image that it cannot take.
    """
    from torch.utils.flop_counter import FlopCounterMode

    # The counter follows gradients where it can, and stumbles over some that are turned off as a whole.
    grads = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    try:
        with FlopCounterMode(display=False) as counter:
            network.requires_grad_(False)(torch.zeros(1, 3, size, size))
    finally:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(grads[name])
    return counter.get_total_flops() // 2  # a multiplication and an addition are two
