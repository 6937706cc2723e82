"""What every network is: a body that makes an embedding of an image, and a linear head that makes logits of it.

    embedding = network.embed(images)       # float or bfloat16, N×3×H×W, normalised  ->  N×D
    logits = network.classify(embedding)    # N×D  ->  N×num_classes

The embedding is the head's input. One pass through the body gives both. This module knows no particular network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """The base of raycls's networks. `any_size` says whether a built network also takes images of another size."""

    any_size: bool
    head: nn.Linear

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Return the head's input, N×D, for normalised images N×3×H×W."""

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the logits, N×num_classes, of an embedding N×D."""
        return self.head(embedding)

    def stages(self) -> list[list[nn.Parameter]]:
        """Return the body's parameters by depth, those next to the image first. By default they are one stage."""
        head = {id(parameter) for parameter in self.head.parameters()}
        return [[parameter for parameter in self.parameters() if id(parameter) not in head]]

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.embed(images))
