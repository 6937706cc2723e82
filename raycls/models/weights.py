"""The weights that a network starts from: public ones, or those in a file.

    load_weights(network, "pretrained")
    load_weights(network, "weights.safetensors")

Only tensors are read: a file cannot run code.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from raycls.errors import ConfigError
from raycls.models.base import Network

PRETRAINED = "pretrained"


def load_weights(network: Network, source: str) -> None:
    """Load weights: source is `pretrained` for public ones, or the path of a .pt, .pth or .safetensors file.

    A file holds the network's weights by name. torchvision's and timm's networks also take the names of their library.
    The head stays random if there is no head of its shape. Raises ConfigError, which names the first weight that does
    not fit, or SourceError if public weights cannot be downloaded.
    """
    weights = network.public_weights() if source == PRETRAINED else network.renamed(_read(Path(source)))
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
    """Return the tensors in a file of weights, by name, on the CPU."""
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise ConfigError(f"--weights {path}: give pretrained, or a .pt, .pth or .safetensors file")
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
