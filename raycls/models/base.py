"""What every network is: a body that makes an embedding of an image, and a linear head that makes logits of it.

    embedding = network.embed(images)       # float or bfloat16, N×3×H×W, normalised  ->  N×D
    logits = network.classify(embedding)    # N×D  ->  N×num_classes

The embedding is the head's input. One pass through the body gives both. This module knows no particular network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from raycls.errors import ConfigError

ANSWER_S = 5  # longest wait for the first answer of the host of public weights, seconds
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)  # the last one is of several GPUs
Channels = tuple[float, float, float]
Statistics = tuple[Channels, Channels]  # mean and standard deviation, in units of the 0..1 range


class Network(nn.Module, ABC):
    """The base of raycls's networks. `any_size` says whether a built network also takes images of another size."""

    name = ""  # as raycls.models.networks.build takes it, for networks with public weights
    any_size: bool
    mirror = False  # whether a prediction is the mean of an image and its mirror image
    head: nn.Linear

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return what the body makes, N×D, of normalised images N×3×H×W."""

    def embed(self, images: Tensor) -> Tensor:
        """Return the head's input, N×D, for normalised images N×3×H×W.

        As the head is linear, the mean of two embeddings gives the mean of both logits.
        """
        found = self.features(images)
        if self.mirror and not self.training:
            found = (found + self.features(images.flip(-1))) / 2
        return found

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the logits, N×num_classes, of an embedding N×D."""
        return self.head(embedding)

    def stages(self) -> list[list[nn.Parameter]]:
        """Return the body's parameters by depth, those next to the image first. By default they are one stage."""
        head = {id(parameter) for parameter in self.head.parameters()}
        return [[parameter for parameter in self.parameters() if id(parameter) not in head]]

    def boundary(self, stages: int) -> nn.Module:
        """Return the module whose output is all that the first `stages` stages make. Raises ConfigError."""
        raise ConfigError("this network has no stages that can be frozen: --set training.frozen_stages=0")

    def public_weights(self) -> dict[str, Tensor]:
        """Return weights that others have trained and published. Raises ConfigError where there are none."""
        raise ConfigError(
            "--weights pretrained is for torchvision's and timm's networks, which `raycls networks` lists: give the "
            "path of a file for another one"
        )

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with a library's names under this network's. Those with its own names are unchanged."""
        return weights

    def resized(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of such a network for another image size, fitted to this one's: those that `resizes` names."""
        return weights

    def resizes(self, name: str) -> bool:
        """Return whether `resized` gives the weight of this name another shape, where the image size asks for it."""
        return False

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.embed(images))
