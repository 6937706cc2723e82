"""torchvision's networks with a new last layer for the dataset's classes, and their ImageNet weights.

    network = TorchvisionNetwork("resnet18", num_classes=5, image_size=224, dropout=0.1)
    network.load_state_dict(network.public_weights(), strict=False)

raycls/models/networks.py offers them by their names. torchvision is imported only when a network is built. This module
knows nothing of datasets. The ImageNet weights expect images normalised with ImageNet's mean and standard deviation.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from raycls import progress
from raycls.errors import SourceError
from raycls.models.base import ANSWER_S, Network, Statistics

# For each network torchvision's name of the last layer, which is replaced.
LAST_LAYERS = {
    "resnet18": "fc",
    "resnet50": "fc",
    "efficientnet_b0": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
}
# Of ImageNet's training images.
STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NATIVE_SIDE = 224  # of the images that the weights learned from, pixels


class TorchvisionNetwork(Network):
    """A network of LAST_LAYERS: torchvision's body with random weights, then dropout and a new `head`.

    The body halves the side of an image five times. For images below 64 pixels, the first convolution keeps the side,
    as little would remain otherwise. That changes no weight's shape, so the same weights fit any image size.
    """

    any_size = True

    def __init__(self, name: str, num_classes: int, image_size: int, dropout: float = 0.0):
        super().__init__()
        from torchvision.models import get_model

        self.name = name
        self.body = get_model(name, weights=None)
        features = self.body.get_submodule(LAST_LAYERS[name]).in_features
        self.body.set_submodule(LAST_LAYERS[name], nn.Identity())
        for module in self.body.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # `dropout` replaces it
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # mobilenet's 0.01 needs more steps than a small dataset gives
        if image_size < 64:
            first = next(module for module in self.body.modules() if isinstance(module, nn.Conv2d))
            first.stride = (1, 1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.dropout(self.body(images))

    def stages(self) -> list[list[nn.Parameter]]:
        return [list(block.parameters()) for block in self._blocks()]

    def boundary(self, stages: int) -> nn.Module:
        return self._blocks()[stages - 1]

    def _blocks(self) -> list[nn.Module]:
        """Return the parts of the body that have parameters, in the order in which they compute."""
        blocks = list(getattr(self.body, "features", self.body).children())  # or ResNet's layers
        blocks += [child for name, child in self.body.named_children() if name == "classifier"]
        return [block for block in blocks if any(True for _ in block.parameters())]

    def public_weights(self) -> dict[str, Tensor]:
        """Return torchvision's best ImageNet weights. Download them if the cache lacks them.

        The cache is `$TORCH_HOME/hub/checkpoints` (https://docs.pytorch.org/docs/stable/hub.html). Raises SourceError
        within seconds if the host cannot be reached.
        """
        import requests
        from torchvision.models import get_model_weights

        weights = get_model_weights(self.name).DEFAULT
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        try:
            if not cached.exists():
                # PyTorch's download has no time limit for the first answer.
                requests.head(weights.url, timeout=ANSWER_S).raise_for_status()
            with progress.bar(f"ImageNet weights of {self.name}"):
                return self.renamed(weights.get_state_dict(progress=False, check_hash=True))
        # All errors of requests and urllib are OSErrors. PyTorch raises RuntimeError for a wrong hash.
        except (OSError, RuntimeError) as error:
            raise SourceError(
                f"cannot download the ImageNet weights of {self.name} from {weights.url} ({type(error).__name__}): "
                "download the file on another machine and give its path with --weights PATH"
            ) from error

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with torchvision's names under this network's names. Weights with its names are unchanged."""
        if any(name.startswith("body.") for name in weights):
            return weights
        last = f"{LAST_LAYERS[self.name]}."
        return {
            f"head.{name.removeprefix(last)}" if name.startswith(last) else f"body.{name}": tensor
            for name, tensor in weights.items()
        }
