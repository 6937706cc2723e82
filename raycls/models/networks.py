"""The networks: a name and the dataset's shape give a plain `torch.nn.Module`.

    network = build("fastcnn", num_classes=10, image_size=32, widths=(64, 128, 128), dropout=0.1)
    logits = network(images)  # float or bfloat16, N×3×H×W, normalised  ->  N×num_classes
    load_weights(network, "weights.safetensors")
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
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raycls.errors import ConfigError
from raycls.models.base import Network
from raycls.models.torchvision_networks import LAST_LAYERS, TorchvisionNetwork, imagenet_weights


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

    def resampled(self, weight: Tensor) -> Tensor:
        """Return a first layer's weight (units × 3·S·S) from another image size, resampled to this network's size.

        The weights of a unit are a picture. Resized, and scaled by the area, it gives about the same answer for the
        resized image.
        """
        units, pixels = weight.shape
        side = math.isqrt(pixels // 3)
        pictures = F.interpolate(
            weight.view(units, 3, side, side), [self.image_size] * 2, mode="bilinear", antialias=True
        )
        return pictures.reshape(units, -1) * (side / self.image_size) ** 2

    def embed(self, images: Tensor) -> Tensor:
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

    def embed(self, images: Tensor) -> Tensor:
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

    def embed(self, images: Tensor) -> Tensor:
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


def build(name: str, *, num_classes: int, image_size: int, **arguments: Any) -> Network:
    """Return a network with random weights, on the CPU in float32.

    arguments: `dropout` (probability before the head) and `widths` (channels or units of each stage; torchvision's
    networks have no widths). Raises ConfigError for an unknown name or an argument that the network does not take.
    """
    if name not in NETWORKS:
        raise ConfigError(f"unknown network {name!r}; the networks are: {', '.join(NETWORKS)}")
    known = set(inspect.signature(NETWORKS[name]).parameters) - {"num_classes", "image_size"}
    if "widths" in set(arguments) - known:
        raise ConfigError(f"{name} has a fixed shape and takes no widths: use --set widths=[]")
    if unknown := set(arguments) - known:
        raise ConfigError(f"{name} takes {', '.join(sorted(known))}, but not {', '.join(sorted(unknown))}")
    return NETWORKS[name](num_classes=num_classes, image_size=image_size, **arguments)


def load_weights(network: nn.Module, source: str) -> None:
    """Load weights: source is `imagenet` for torchvision's weights, or the path of a .pt, .pth or .safetensors file.

    A file holds the network's weights by name. torchvision's networks also take torchvision's names. The head stays
    random if the file has no head of its shape. Raises ConfigError, which names the first weight that does not fit, or
    SourceError if the `imagenet` weights cannot be downloaded.
    """
    if source == "imagenet" and not isinstance(network, TorchvisionNetwork):
        raise ConfigError(
            f"--weights imagenet is only for {', '.join(LAST_LAYERS)}: give a path for another network"
        )
    if isinstance(network, TorchvisionNetwork):
        weights = imagenet_weights(network.name) if source == "imagenet" else _read(Path(source))
        weights = network.renamed(weights)
    else:
        weights = _read(Path(source))
    own = network.state_dict()
    given = {
        name: tensor
        for name, tensor in weights.items()
        if not (name.startswith("head.") and name in own and tensor.shape != own[name].shape)
    }
    try:
        missing, unexpected = network.load_state_dict(given, strict=False)
    except RuntimeError as error:  # a weight has another shape: a headline, then one line for each weight
        raise ConfigError(
            f"{source} does not fit this network: {str(error).splitlines()[1].strip()}"
        ) from None
    if absent := [name for name in missing if not name.startswith("head.")]:
        raise ConfigError(f"{source} does not fit this network: the file has no {absent[0]}")
    if unexpected:
        raise ConfigError(f"{source} does not fit this network: the network has no {unexpected[0]}")


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of weights, by name, on the CPU. Only tensors are unpickled."""
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise ConfigError(f"--weights {path}: give imagenet, or a .pt, .pth or .safetensors file")
    if not path.is_file():
        raise ConfigError(f"--weights {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ConfigError(
            f"--weights {path} is damaged, or holds other objects than tensors ({type(error).__name__}): save it "
            "again with torch.save(network.state_dict(), …)"
        ) from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ConfigError(
            f"--weights {path} is not a state dict: save one with torch.save(network.state_dict(), …)"
        )
    return weights


def freeze_body(network: nn.Module, frozen: bool) -> None:
    """Freeze all layers but the head, or unfreeze them.

    A frozen batch norm keeps its statistics. `network.train()` unfreezes the statistics, so call this function after
    it in every epoch. Parameters that a network never trains (`fixed`) stay frozen.
    """
    fixed = getattr(network, "fixed", ())
    for name, parameter in network.named_parameters():
        if not name.startswith("head.") and not name.endswith(fixed):
            parameter.requires_grad_(not frozen)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(network.training and not frozen)
