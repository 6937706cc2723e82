"""The networks: a name and the dataset's shape give a plain `torch.nn.Module`.

    network = build("fastcnn", num_classes=10, image_size=32, widths=(64, 128, 128), dropout=0.1)
    logits = network(images)  # float or bfloat16, N×3×H×W, normalised  ->  N×num_classes
    freeze_body(network, True)

Every network can be built for any square image of 8 pixels or more and for any number of classes. Its last layer is a
linear `head`, with dropout before it (raycls/models/base.py). This module knows neither Ray nor MLflow nor datasets nor
optimisers.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycls.errors import ConfigError
from raycls.models import timm_networks, torchvision_networks
from raycls.models.base import BATCH_NORMS, Network, Statistics
from raycls.models.card import ENSEMBLE
from raycls.models.channels import narrow
from raycls.models.ensemble import Ensemble
from raycls.models.torchvision_networks import LAST_LAYERS, TorchvisionNetwork


class MLP(Network):
    """The baseline: flatten, then one hidden layer with ReLU for each width. It sees no neighbourhoods."""

    any_size = False  # the first layer has one weight for each pixel

    def __init__(
        self, num_classes: int, image_size: int, widths: tuple[int, ...] = (512, 256), dropout: float = 0.0
    ):
        super().__init__()
        self.image_size = image_size
        sides = [3 * image_size * image_size, *widths]
        hidden: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in itertools.pairwise(sides):
            hidden += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*hidden)
        self.head = nn.Linear(sides[-1], num_classes)

    def resizes(self, name: str) -> bool:
        return name == "layers.1.weight"

    def resized(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample the first layer's weight (units × 3·S·S) to this network's size.

        The weights of a unit are a picture. Resized, and scaled by the area, it gives about the same answer for the
        resized image.
        """
        weight = weights["layers.1.weight"]
        units, pixels = weight.shape
        side = math.isqrt(pixels // 3)
        pictures = F.interpolate(
            weight.view(units, 3, side, side), [self.image_size] * 2, mode="bilinear", antialias=True
        )
        return weights | {"layers.1.weight": pictures.reshape(units, -1) * (side / self.image_size) ** 2}

    def features(self, images: Tensor) -> Tensor:
        return self.layers(images)


class CNN(Network):
    """A plain convolutional network. For each width: 3×3 convolution, batch norm, ReLU, 2×2 max pooling."""

    any_size = True

    def __init__(
        self, num_classes: int, image_size: int, widths: tuple[int, ...] = (32, 64, 128), dropout: float = 0.0
    ):
        super().__init__()
        layers: list[nn.Module] = []
        side = image_size
        for fan_in, fan_out in itertools.pairwise((3, *widths)):
            layers += [
                nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(),
            ]
            if side >= 2:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.dropout(self.layers(images).mean(dim=(2, 3)))


class _ConvGroup(nn.Module):
    """Two 3×3 convolutions with one pooling between them. Pooling before the norm makes the norm four times cheaper."""

    def __init__(self, fan_in: int, fan_out: int, pool: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.norm1 = _batch_norm(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = _batch_norm(fan_out)
        for conv in (self.conv1, self.conv2):
            # The first fan_in filters start as the identity, so a new network already passes on its input.
            nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.pool(self.conv1(x))))
        return F.gelu(self.norm2(self.conv2(x)))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    # The momentum is airbench94's. Its eps of 1e-12 gives infinities if a channel is constant over a small batch.
    return nn.BatchNorm2d(channels, momentum=0.4)


class FastCNN(Network):
    """A small CNN with whitened input and Dirac initialisation. Source: airbench94_muon, K. Jordan, arXiv:2404.00498.

    A fixed 2×2 convolution decorrelates the input patches; `init_whitening` computes it from training images. A group
    of two convolutions follows for each width. A linear head reads the maximum of each channel. Images of 128 pixels
    or more are whitened in larger, strided patches, so that the input of the first group is at most about 80 pixels a
    side.
    """

    any_size = True
    # Name endings of the parameters that never learn: the whitening, and the scales of the norms. Muon normalises the
    # filters before a norm, so its scale is redundant.
    fixed = ("whiten.weight", "norm1.weight", "norm2.weight")

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        widths: tuple[int, ...] = (64, 128, 128),
        dropout: float = 0.0,
    ):
        super().__init__()
        stride = max(1, image_size // 64)
        kernel = max(2, stride)
        # Each eigenvector and its negative, as the activation passes only one sign.
        whitened = 2 * 3 * kernel * kernel
        self.whiten = nn.Conv2d(3, whitened, kernel, stride=stride)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        side = (image_size - kernel) // stride + 1
        groups = []
        for fan_in, fan_out in itertools.pairwise((whitened, *widths)):
            groups.append(_ConvGroup(fan_in, fan_out, pool=side >= 2))
            side = max(1, side // 2)
        self.groups = nn.Sequential(*groups)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        self.head.weight.data /= self.head.weight.data.std()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.endswith(self.fixed))

    @torch.no_grad()
    def init_whitening(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first convolution to the scaled eigenvectors of the covariance of image patches.

        images: float32 N×3×H×W, normalised; a few thousand are enough. eps limits the scale of the weakest directions.
        """
        kernel = self.whiten.kernel_size[0]
        stride = max(kernel // 2, 1)
        patches = images.unfold(2, kernel, stride).unfold(3, kernel, stride)  # N×3×h×w×k×k
        flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * kernel * kernel).float()
        eigenvalues, eigenvectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        filters = (eigenvectors / torch.sqrt(eigenvalues.clamp(min=0) + eps)).T.reshape(-1, 3, kernel, kernel)
        # Grey images have no variance in two thirds of the directions, where a channel would hold only rounding errors.
        # Other directions are repeated in their place, the strongest first.
        filters = filters[eigenvalues >= 1e-6 * eigenvalues.max()].flip(0)
        filters = filters[torch.arange(len(eigenvalues)) % len(filters)]
        self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def freeze_early(self) -> None:
        """Freeze the whitening's bias and the first group, which saves their backward pass."""
        for parameter in itertools.chain(self.whiten.parameters(), self.groups[0].parameters()):
            parameter.requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        return self.dropout(self.groups(F.gelu(self.whiten(images))).amax(dim=(2, 3)))

    def classify(self, embedding: Tensor) -> Tensor:
        # Divided by the width, the first logits are small for any width. The head's learning rate relies on that.
        return self.head(embedding) / embedding.shape[-1]


NETWORKS: dict[str, Callable[..., Network]] = {
    "mlp": MLP,
    "cnn": CNN,
    "fastcnn": FastCNN,
    **{name: functools.partial(TorchvisionNetwork, name) for name in LAST_LAYERS},
}


def check_name(name: str) -> None:
    """Raise ConfigError for the name of no network."""
    if name.startswith(timm_networks.PREFIX):
        timm_networks.check_name(name)
    elif name not in NETWORKS:
        raise ConfigError(
            f"unknown network {name!r}; the networks are: {', '.join(NETWORKS)}, and {timm_networks.PREFIX}NAME for "
            "timm's"
        )


def has_public_weights(name: str) -> bool:
    """Return whether others have published weights of the network."""
    return name in LAST_LAYERS or name.startswith(timm_networks.PREFIX)


def public_statistics(name: str) -> Statistics:
    """Return the mean and standard deviation of pixels that a network's public weights expect. Raises ConfigError."""
    if name in LAST_LAYERS:
        return torchvision_networks.STATISTICS
    if name.startswith(timm_networks.PREFIX):
        return timm_networks.statistics(name)
    raise ConfigError(f"{name} has no public weights: --set network.statistics=dataset")


def takes_any_size(name: str) -> bool:
    """Return whether a network that is built for a size also takes smaller images. Raises ConfigError."""
    if name.startswith(timm_networks.PREFIX):
        return timm_networks.takes_any_size(name)
    return name != "mlp"  # which has one weight for each pixel


def has_batch_norms(name: str) -> bool:
    """Return whether a network with public weights has batch norms. Raises ConfigError."""
    with torch.device("meta"):  # nothing is computed
        network = build(name, num_classes=2, image_size=native_side(name))
    return any(isinstance(module, BATCH_NORMS) for module in network.modules())


def native_side(name: str) -> int:
    """Return the side of the images that a network's public weights learned from, pixels. Raises ConfigError."""
    if name.startswith(timm_networks.PREFIX):
        return timm_networks.native_side(name)
    return torchvision_networks.NATIVE_SIDE


def build(name: str, *, num_classes: int, image_size: int, **arguments: Any) -> Network:
    """Return a network with random weights, on the CPU in float32.

    arguments: `mirror` (see `Network.mirror`), `channels` (of a pruned network; see raycls/models/channels.py),
    `dropout` (probability before the head) and `widths` (channels or units of each stage; torchvision's and timm's
    networks have no widths). Raises ConfigError for an unknown name or an argument that the network does not take.
    """
    if name == ENSEMBLE:
        return Ensemble(num_classes=num_classes, image_size=image_size, **arguments)
    check_name(name)
    mirror, channels = arguments.pop("mirror", False), arguments.pop("channels", {})
    made = NETWORKS.get(name) or functools.partial(timm_networks.TimmNetwork, name)
    known = set(inspect.signature(made).parameters) - {"num_classes", "image_size"}
    if "widths" in set(arguments) - known:
        raise ConfigError(f"{name} has a fixed shape and takes no widths: use --set widths=[]")
    if unknown := set(arguments) - known:
        raise ConfigError(f"{name} takes {', '.join(sorted(known))}, but not {', '.join(sorted(unknown))}")
    network = made(num_classes=num_classes, image_size=image_size, **arguments)
    network.mirror = mirror
    narrow(network, channels)
    return network


def freeze_body(network: nn.Module, frozen: bool) -> None:
    """Freeze all layers but the head, or unfreeze them.

    A frozen batch norm keeps its statistics. `network.train()` unfreezes the statistics, so call this function after
    it in every epoch. Parameters that a network never trains (`fixed`) stay frozen.
    """
    fixed = getattr(network, "fixed", ())
    for name, parameter in network.named_parameters():
        if not name.startswith("head.") and not name.endswith(fixed):
            parameter.requires_grad_(not frozen)
    if frozen:
        freeze_statistics(network)


def freeze_statistics(network: nn.Module) -> None:
    """Let batch norms keep their statistics, until the next `network.train()`."""
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            module.eval()
