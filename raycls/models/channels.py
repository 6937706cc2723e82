"""The channels that a pruned network has kept: a description by layer, and the layers made of it.

    channels = channels_of(pruned, build("resnet18", num_classes=10, image_size=64))
    channels["body.layer1.0.conv1"]                       # (64, 32): it takes 64 channels and makes 32
    narrow(build("resnet18", num_classes=10, image_size=64), channels)     # the shape of the pruned network

A card holds the description, so that code and weights alone give the network again. This module needs no library for
pruning; raycls/models/pruning.py has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raycls.errors import ConfigError
from raycls.models.base import Network

Channels = dict[str, tuple[int, ...]]


def channels_of(network: Network, whole: Network) -> Channels:
    """Return the channels of each layer of `network` that differ from those of `whole`, by the layer's name.

    They are (taken, made) of a convolution or a linear layer, (count,) of a norm, and the shape of a parameter that is
    part of none of them, such as a factor for each channel.
    """
    full = _described(whole)
    return {name: sizes for name, sizes in _described(network).items() if sizes != full.get(name)}


def narrow(network: Network, channels: Mapping[str, Sequence[int]]) -> None:
    """Give the layers of a new network these channels. The head keeps its classes. Raises ConfigError."""
    known = _described(network) if channels else {}
    for name, sizes in channels.items():
        if len(sizes) != len(known.get(name, ())):
            raise ConfigError(f"{network.name or type(network).__name__} has no layer {name} to be narrowed")
        owner, _, own = name.rpartition(".")
        part = getattr(network.get_submodule(owner), own)
        if isinstance(part, nn.Parameter):
            setattr(network.get_submodule(owner), own, _cut(part, *sizes))
        else:
            _resize(part, (sizes[0], network.head.out_features) if part is network.head else tuple(sizes))


def _described(network: Network) -> Channels:
    layers = {name: sizes for name, layer in network.named_modules() if (sizes := _sizes(layer))}
    other = {
        name: tuple(parameter.shape)
        for name, parameter in network.named_parameters()
        if name.rpartition(".")[0] not in layers
    }
    return layers | other


def _sizes(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.BatchNorm2d):
        return (layer.num_features,)
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return tuple(layer.normalized_shape)
    return ()


@torch.no_grad()
def _resize(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    made = sizes[-1]
    if isinstance(layer, nn.Conv2d):
        if layer.groups == layer.in_channels:  # one filter for each channel
            layer.groups = sizes[0]
        taken = sizes[0] // layer.groups
        layer.in_channels, layer.out_channels = sizes
        layer.weight = _cut(layer.weight, made, taken)
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = sizes
        layer.weight = _cut(layer.weight, made, sizes[0])
    else:
        if isinstance(layer, nn.BatchNorm2d):
            layer.num_features = made
            layer.running_mean, layer.running_var = (
                None if each is None else each[:made].clone()
                for each in (layer.running_mean, layer.running_var)
            )
        else:
            layer.normalized_shape = (made,)  # type: ignore[assignment]
        if layer.weight is not None:
            layer.weight = _cut(layer.weight, made)  # type: ignore[arg-type]
    if layer.bias is not None:
        layer.bias = _cut(layer.bias, made)  # type: ignore[arg-type]


def _cut(parameter: Tensor, *sizes: int) -> nn.Parameter:
    """Return the first values of a parameter, as many as `sizes` says."""
    kept = parameter[tuple(slice(size) for size in sizes)].clone()
    return nn.Parameter(kept, requires_grad=parameter.requires_grad)
