from __future__ import annotations

import numpy as np
import pytest
import torch

from raycls.data.transforms import normalize
from raycls.errors import ConfigError
from raycls.models.networks import NETWORKS, FastCNN, build


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("size", "classes"), [(8, 10), (32, 3), (64, 5), (224, 2)])
def test_any_size_and_class_count_trains_every_weight(name: str, size: int, classes: int) -> None:
    network = build(name, num_classes=classes, image_size=size, widths=(8, 8), dropout=0.1)
    logits = network(torch.rand(2, 3, size, size))
    assert logits.shape == (2, classes)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_acts_in_training_only(name: str) -> None:
    network = build(name, num_classes=4, image_size=16, widths=(8, 8), dropout=0.5)
    images = torch.rand(3, 3, 16, 16)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


def test_whitening_decorrelates_patches_of_real_images() -> None:
    rng = np.random.default_rng(0)
    # Smooth fields: neighbouring pixels agree, as in photographs.
    coarse = torch.from_numpy(rng.normal(size=(200, 3, 8, 8))).float()
    images = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    network = FastCNN(num_classes=2, image_size=32, widths=(8,))
    network.init_whitening(images, eps=0.0)
    responses = torch.nn.functional.conv2d(images, network.whiten.weight)[:, :12]
    flat = responses.permute(1, 0, 2, 3).reshape(12, -1)
    covariance = flat @ flat.T / flat.shape[1]
    assert torch.allclose(covariance, torch.eye(12), atol=0.15)


def test_a_fresh_group_passes_its_input_on() -> None:
    network = FastCNN(num_classes=2, image_size=32, widths=(32,))
    convolution = network.groups[0].conv1
    x = torch.rand(1, 24, 31, 31)
    assert torch.allclose(convolution(x)[:, :24], x, atol=1e-6)


def test_unknown_names_and_arguments_are_told() -> None:
    with pytest.raises(ConfigError, match="unknown network 'vgg'"):
        build("vgg", num_classes=2, image_size=32)
    with pytest.raises(ConfigError, match="not depth"):
        build("cnn", num_classes=2, image_size=32, depth=3)


def test_normalize_is_the_textbook_formula_in_channels_last() -> None:
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    expected = (images.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    result = normalize(images, mean, std)
    assert torch.allclose(result.double(), expected.permute(0, 3, 1, 2), atol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
