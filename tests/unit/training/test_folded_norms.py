"""A network whose batch norms are folded answers and learns as it did with them in eval mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from raycls.models.base import Network
from raycls.models.networks import build
from raycls.training.folded_norms import fold_norms

NAMES = (
    "cnn",
    "resnet18",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "timm/tf_efficientnet_lite0.in1k",  # its convolutions pad as TensorFlow's
    "timm/mobilenetv4_conv_small.e2400_r224_in1k",
    "timm/test_convnext.r160_in1k",  # without batch norms
)


def _network(name: str) -> Network:
    torch.manual_seed(0)
    network = build(name, num_classes=4, image_size=64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.uniform_(-0.5, 0.5)
    return network.eval()


def _learned(network: Network, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = network(images)
    logits.square().mean().backward()
    return logits.detach(), {
        name: each.grad for name, each in network.named_parameters() if each.grad is not None
    }


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_gradients_are_the_same(name: str) -> None:
    network, images = _network(name), torch.randn(3, 3, 64, 64)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert (norms > 0) == (name != "timm/test_convnext.r160_in1k")
    logits, gradients = _learned(copy.deepcopy(network), images)
    keys = list(network.state_dict())
    assert fold_norms(network, 64) == norms
    assert list(network.state_dict()) == keys
    folded, found = _learned(network, images)
    assert torch.allclose(folded, logits, rtol=1e-3, atol=1e-4 * logits.abs().max().item())
    assert found.keys() == gradients.keys()
    for key, gradient in gradients.items():
        assert torch.allclose(found[key], gradient, rtol=1e-2, atol=1e-3 * gradient.abs().max().item()), key


def test_a_copy_has_its_own_weights_and_a_mirrored_network_is_folded_too() -> None:
    network = _network("cnn")
    network.mirror = True
    assert fold_norms(network, 64) == 3
    other, images = copy.deepcopy(network), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        usual = network(images)
        for each in other.parameters():
            each.zero_()
        assert torch.equal(network(images), usual)
        assert torch.equal(other(images), torch.zeros_like(usual))


class _Branched(Network):
    """What its convolution makes goes to the batch norm and around it."""

    any_size = True

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def features(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        found: Tensor = (made + self.norm(made)).mean(dim=(2, 3))
        return found


def test_what_would_answer_otherwise_stays_as_it_was() -> None:
    network = _Branched()
    for tensor in (network.norm.weight.data, network.norm.running_var):
        assert tensor is not None
        tensor.uniform_(2, 3)
    network.eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        usual = network(images)
        assert fold_norms(network, 16) == 0
        assert torch.equal(network(images), usual)
