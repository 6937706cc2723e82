"""The networks, behind one small registry: a name and the dataset's shape give a plain `torch.nn.Module`.

    network = build("fastcnn", num_classes=10, image_size=32, widths=(64, 128, 128), dropout=0.1)
    logits = network(images)  # float or bfloat16, N×3×H×W, normalised  ->  N×num_classes

Every network is made for any square image size from 8 pixels up and any number of classes, and has dropout before its
last layer. `any_size` says whether, once made, it also takes images of another size. Nothing here knows of Ray, MLflow,
files or optimisers.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycls.errors import ConfigError


class MLP(nn.Module):
    """The baseline: flatten, one hidden layer per width, ReLU. Knows nothing of neighbouring pixels."""

    any_size = False  # its first layer has one weight per pixel

    def __init__(
        self, num_classes: int, image_size: int, widths: tuple[int, ...] = (512, 256), dropout: float = 0.0
    ):
        super().__init__()
        sides = [3 * image_size * image_size, *widths]
        hidden: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in itertools.pairwise(sides):
            hidden += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*hidden)
        self.head = nn.Linear(sides[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images))


class CNN(nn.Module):
    """A plain conv-pool network: 3×3 convolution, batch norm, ReLU, halve the side; once per width."""

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

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.layers(images).mean(dim=(2, 3))))


class _ConvGroup(nn.Module):
    """Two 3×3 convolutions with one pooling between them. Pooling comes before the norm: a quarter of the work."""

    def __init__(self, fan_in: int, fan_out: int, pool: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.norm1 = _batch_norm(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = _batch_norm(fan_out)
        for conv in (self.conv1, self.conv2):
            # The first fan_in filters begin as the identity, so a fresh network already passes its input on.
            nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.pool(self.conv1(x))))
        return F.gelu(self.norm2(self.conv2(x)))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    # momentum of airbench94; the scale is fixed because Muon normalises the filters before it. Not its eps of 1e-12,
    # which turns a channel that is constant over a small batch into infinities.
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class FastCNN(nn.Module):
    """A whitened, Dirac-initialised small CNN, after airbench94_muon (Keller Jordan, arXiv:2404.00498).

    A fixed 2×2 convolution decorrelates the input patches (`init_whitening`, computed from training images), groups
    of two convolutions follow, one per width, and a linear head reads the channel-wise maximum. Images above
    127 pixels are whitened in larger, strided patches, so that the first group sees at most about 80 pixels a side.
    """

    any_size = True

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
        whitened = (
            2 * 3 * kernel * kernel
        )  # every eigenvector and its negative, as the activation is one-sided
        self.whiten = nn.Conv2d(3, whitened, kernel, stride=stride)
        self.whiten.weight.requires_grad_(False)
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

    @torch.no_grad()
    def init_whitening(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first convolution to the scaled eigenvectors of the images' patch covariance.

        images: float32, N×3×H×W, normalised; a few thousand suffice. eps damps the weakest directions.
        """
        kernel = self.whiten.kernel_size[0]
        stride = max(kernel // 2, 1)
        patches = images.unfold(2, kernel, stride).unfold(3, kernel, stride)  # N×3×h×w×k×k
        flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * kernel * kernel).float()
        eigenvalues, eigenvectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        filters = (eigenvectors / torch.sqrt(eigenvalues.clamp(min=0) + eps)).T.reshape(-1, 3, kernel, kernel)
        # Grey images leave two thirds of the directions empty; such a channel would be constant or nothing but
        # rounding, so the others are repeated in its place, the strongest first.
        filters = filters[eigenvalues >= 1e-6 * eigenvalues.max()].flip(0)
        filters = filters[torch.arange(len(eigenvalues)) % len(filters)]
        self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        x = self.groups(F.gelu(self.whiten(images)))
        x = self.dropout(x.amax(dim=(2, 3)))
        # Dividing by the width keeps the first logits small whatever the width; the head's learning rate assumes it.
        return self.head(x) / x.shape[-1]


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "cnn": CNN, "fastcnn": FastCNN}


def build(name: str, *, num_classes: int, image_size: int, **arguments: Any) -> nn.Module:
    """A fresh network with random weights, on the CPU in float32.

    arguments are the network's own: `widths` (channels or units per stage) and `dropout` (probability before the
    head). Raises ConfigError for an unknown name or an argument that the network does not take.
    """
    if name not in NETWORKS:
        raise ConfigError(f"unknown network {name!r}; the networks are: {', '.join(NETWORKS)}")
    known = set(inspect.signature(NETWORKS[name]).parameters) - {"num_classes", "image_size"}
    if unknown := set(arguments) - known:
        raise ConfigError(f"{name} takes {', '.join(sorted(known))}; not {', '.join(sorted(unknown))}")
    return NETWORKS[name](num_classes=num_classes, image_size=image_size, **arguments)
