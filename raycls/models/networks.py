"""The networks, behind one small registry: a name and the dataset's shape give a plain `torch.nn.Module`.

    network = build("fastcnn", num_classes=10, image_size=32, widths=(64, 128, 128), dropout=0.1)
    logits = network(images)  # float or bfloat16, N×3×H×W, normalised  ->  N×num_classes
    load_weights(network, "weights.safetensors")
    freeze_body(network, True)

Every network is made for any square image size from 8 pixels up and any number of classes. Its last layer is a linear
`head`, with dropout before it. `any_size` says whether, once made, it also takes images of another size. Nothing here
knows of Ray, MLflow, datasets or optimisers.
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
from raycls.models.torchvision_networks import LAST_LAYERS, TorchvisionNetwork, imagenet_weights


class MLP(nn.Module):
    """The baseline: flatten, one hidden layer per width, ReLU. Knows nothing of neighbouring pixels."""

    any_size = False  # its first layer has one weight per pixel

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
        """The first layer's weight (units × 3·S·S) learned at another image size, for this one's.

        Each unit's weights are a picture; resized, and scaled by the area, it answers the resized image about alike.
        """
        units, pixels = weight.shape
        side = math.isqrt(pixels // 3)
        pictures = F.interpolate(
            weight.view(units, 3, side, side), [self.image_size] * 2, mode="bilinear", antialias=True
        )
        return pictures.reshape(units, -1) * (side / self.image_size) ** 2

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
    # momentum of airbench94. Not its eps of 1e-12, which turns a channel that is constant over a small batch into
    # infinities.
    return nn.BatchNorm2d(channels, momentum=0.4)


class FastCNN(nn.Module):
    """A whitened, Dirac-initialised small CNN, after airbench94_muon (Keller Jordan, arXiv:2404.00498).

    A fixed 2×2 convolution decorrelates the input patches (`init_whitening`, computed from training images), groups
    of two convolutions follow, one per width, and a linear head reads the channel-wise maximum. Images above
    127 pixels are whitened in larger, strided patches, so that the first group sees at most about 80 pixels a side.
    """

    any_size = True
    # Endings of the names of what never learns: the whitening, and the norms' scales, as Muon normalises the filters
    # before them.
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
        whitened = (
            2 * 3 * kernel * kernel
        )  # every eigenvector and its negative, as the activation is one-sided
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

    def freeze_early(self) -> None:
        """Let the whitening's bias and the first group learn no more, which saves their backward pass."""
        for parameter in itertools.chain(self.whiten.parameters(), self.groups[0].parameters()):
            parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.groups(F.gelu(self.whiten(images)))
        x = self.dropout(x.amax(dim=(2, 3)))
        # Dividing by the width keeps the first logits small whatever the width; the head's learning rate assumes it.
        return self.head(x) / x.shape[-1]


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "fastcnn": FastCNN,
    **{name: functools.partial(TorchvisionNetwork, name) for name in LAST_LAYERS},
}


def build(name: str, *, num_classes: int, image_size: int, **arguments: Any) -> nn.Module:
    """A fresh network with random weights, on the CPU in float32.

    arguments are the network's own: `widths` (channels or units per stage), which torchvision's have not, and `dropout`
    (probability before the head). Raises ConfigError for an unknown name or an argument that the network does not take.
    """
    if name not in NETWORKS:
        raise ConfigError(f"unknown network {name!r}; the networks are: {', '.join(NETWORKS)}")
    known = set(inspect.signature(NETWORKS[name]).parameters) - {"num_classes", "image_size"}
    if "widths" in set(arguments) - known:
        raise ConfigError(f"{name} has a fixed shape and takes no widths: --set widths=[]")
    if unknown := set(arguments) - known:
        raise ConfigError(f"{name} takes {', '.join(sorted(known))}; not {', '.join(sorted(unknown))}")
    return NETWORKS[name](num_classes=num_classes, image_size=image_size, **arguments)


def load_weights(network: nn.Module, source: str) -> None:
    """Start from given weights: `imagenet` for torchvision's own, or the path of a .pt, .pth or .safetensors file.

    A file holds the network's weights by name; torchvision's networks take torchvision's names too. The head stays
    fresh where the file has none of its shape. Raises ConfigError that names the first weight which does not fit,
    SourceError where `imagenet` cannot be downloaded.
    """
    if source == "imagenet" and not isinstance(network, TorchvisionNetwork):
        raise ConfigError(
            f"--weights imagenet is for {', '.join(LAST_LAYERS)}; for other networks give a path"
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
    except RuntimeError as error:  # of another shape: a headline, then a line for each
        raise ConfigError(f"{source} is not of this network: {str(error).splitlines()[1].strip()}") from None
    if absent := [name for name in missing if not name.startswith("head.")]:
        raise ConfigError(f"{source} is not of this network: it has no {absent[0]}")
    if unexpected:
        raise ConfigError(f"{source} is not of this network, which has no {unexpected[0]}")


def _read(path: Path) -> dict[str, Tensor]:
    """Every tensor in a file of weights, by name, on the CPU. Nothing but tensors is ever unpickled."""
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise ConfigError(f"--weights {path}: neither imagenet nor a .pt, .pth or .safetensors file")
    if not path.is_file():
        raise ConfigError(f"--weights {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ConfigError(
            f"--weights {path} is damaged, or holds more than tensors ({type(error).__name__})"
        ) from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ConfigError(
            f"--weights {path} is no state dict: save one with torch.save(network.state_dict(), …)"
        )
    return weights


def freeze_body(network: nn.Module, frozen: bool) -> None:
    """Let the head alone learn, or everything again that may.

    While frozen, the norms keep their statistics. `network.train()` sets them moving, so call this after it, in every
    epoch. What a network never trains stays as it is.
    """
    fixed = getattr(network, "fixed", ())
    for name, parameter in network.named_parameters():
        if not name.startswith("head.") and not name.endswith(fixed):
            parameter.requires_grad_(not frozen)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(network.training and not frozen)
