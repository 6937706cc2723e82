"""Convolutions that compute in float32 under autocast: depthwise ones, and those of maps below their stride."""

from __future__ import annotations

import copy

import torch
from torch import nn

from raycls.training.float32_layers import keep_in_float32


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 8, 1, groups=2),
        nn.Conv2d(8, 2, 1),
    )
    return nn.Sequential(*layers)


def test_depthwise_layers_alone_compute_in_float32() -> None:
    network, images = _network(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        exact = network(images)
    keep_in_float32(network)
    found: list[torch.dtype] = []
    for layer in network:
        layer.register_forward_hook(lambda layer, inputs, output: found.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(images).float().sum().backward()
    assert found == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]
    assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in network.parameters())
    with torch.no_grad():
        assert torch.equal(network(images), exact)


def test_a_copy_of_the_network_has_its_own_weights() -> None:
    network, images = _network(), torch.randn(2, 3, 8, 8)
    keep_in_float32(network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        usual = network(images)
        for each in other.parameters():
            each.zero_()
        assert torch.equal(network(images), usual)
        assert torch.equal(other(images), torch.zeros_like(usual))


def test_a_stride_beyond_the_map_computes_in_float32() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    keep_in_float32(network)
    found: list[torch.dtype] = []
    for layer in network:
        layer.register_forward_hook(lambda layer, inputs, output: found.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 3, 2, 2))
        network(torch.randn(2, 3, 4, 4))
    assert found == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]
