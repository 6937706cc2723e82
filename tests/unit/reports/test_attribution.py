"""Heat maps point at what decides; every network has its layers found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raycls.models.networks import NETWORKS, build
from raycls.reports.attribution import (
    CHANNELS,
    FILTERS,
    LEAST_SIDE,
    cam_layer,
    feature_maps,
    first_filters,
    grad_cam,
    spatial_layers,
)


class _Brightness(nn.Module):
    """Class 0 counts red, class 1 blue; nothing else plays a part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.conv.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]).view(2, 3, 1, 1)
        self.relu = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(images)).mean((2, 3))


def test_the_heat_is_where_the_class_is() -> None:
    network = _Brightness().eval()
    image = torch.zeros(1, 3, 16, 16)
    image[0, 0, 2:5, 3:6] = 1  # red
    image[0, 2, 10:14, 11:15] = 1  # blue
    layer = cam_layer(spatial_layers(network, image))
    assert layer is not None
    assert layer.name == "relu"
    red, blue = grad_cam(network, image.repeat(2, 1, 1, 1), torch.tensor([0, 1]), layer)
    assert torch.equal(red > 0.5, image[0, 0] > 0)
    assert torch.equal(blue > 0.5, image[0, 2] > 0)
    nothing = grad_cam(network, torch.zeros(1, 3, 16, 16), torch.tensor([0]), layer)
    assert torch.equal(nothing, torch.zeros(1, 16, 16))


def test_a_network_that_also_sees_the_mirror_image_is_explained_by_the_image() -> None:
    images = torch.randn(2, 3, 32, 32)
    plain = build("cnn", num_classes=3, image_size=32).eval()
    both = build("cnn", num_classes=3, image_size=32, mirror=True).eval()
    both.load_state_dict(plain.state_dict())
    maps = []
    for network in (plain, both):
        layer = cam_layer(spatial_layers(network, images))
        assert layer is not None
        maps.append(grad_cam(network, images, torch.tensor([0, 1]), layer))
    assert torch.equal(*maps)
    assert both.mirror


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_shows_what_it_has(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, num_classes=5, image_size=64).eval()
    inputs = torch.randn(2, 3, 64, 64)
    layers = spatial_layers(network, inputs)
    layer, filters = cam_layer(layers), first_filters(network, 64)
    assert filters is not None
    assert len(filters[1]) <= FILTERS
    assert 0 <= filters[1].min() < filters[1].max() <= 1
    if name == "mlp":
        assert layer is None
        assert feature_maps(layers) == []
        assert filters[1].shape[1:] == (64, 64, 3)
        return
    assert layer is not None
    assert layer.side >= LEAST_SIDE
    assert not isinstance(layer.module, nn.Conv2d)
    heat = grad_cam(network, inputs, torch.tensor([1, 4]), layer)
    assert heat.shape == (2, layer.side, layer.side)
    assert 0 <= heat.min() <= heat.max() <= 1
    shown = feature_maps(layers)
    assert 2 <= len(shown) <= 4
    for _, channels, maps in shown:
        assert maps.shape[:2] == (2, min(CHANNELS, channels))
        assert maps.shape[2] == maps.shape[3] >= LEAST_SIDE
    assert network.training is False
    assert not any(module._forward_hooks for module in network.modules())
