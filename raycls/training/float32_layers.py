"""Convolutions that learn in float32 on CPUs, whatever the others compute in.

    keep_in_float32(network)

- Depthwise ones, as PyTorch has no fast backward pass for them in bfloat16: it took four times as long as that of
  float32, and most of a step. On a Xeon with AMX, a step of EfficientNet-Lite0 took 138 to 201 ms of one core for each
  image in bfloat16 and 63 to 68 with this; of ConvNeXt-Atto 67 and 40. Wider groups gain nothing.
- Those with a larger stride than their map, such as the last ones of a ResNet with images of 8 pixels. With AMX in
  bfloat16, the gradient of their weights is partly memory that nobody wrote (PyTorch 2.15, oneDNN): now and then a
  loss became NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn


def keep_in_float32(network: nn.Module) -> None:
    """Let the convolutions that need it compute in float32 where autocast is on."""
    for module in network.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        # A partial is copied with its module, as moving averages of weights need it.
        if 1 < module.groups == module.in_channels:
            module.forward = functools.partial(_in_float32, module.forward)  # type: ignore[method-assign]
        elif max(module.stride) > 1:
            module.forward = functools.partial(_small_in_float32, module.forward, module.stride)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with torch.autocast(inputs.device.type, enabled=False):
        return forward(inputs.float())


def _small_in_float32(forward: Callable[[Tensor], Tensor], stride: tuple[int, ...], inputs: Tensor) -> Tensor:
    small = inputs.shape[-2] < stride[0] or inputs.shape[-1] < stride[1]
    return _in_float32(forward, inputs) if small else forward(inputs)
