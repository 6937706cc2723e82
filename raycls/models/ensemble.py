"""Several networks as one: its logits are the mean of theirs.

    network, card = combined([load(directory) for directory in directories])

The embedding is theirs one after another, and the head is linear, as that of every network. So all engines, exports and
pages take it as they take others. A mean of logits is the geometric mean of the probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raycls.errors import ConfigError
from raycls.models.base import Network
from raycls.models.card import ENSEMBLE, ModelCard, provenance


class Ensemble(Network):
    """The bodies of several networks, then one `head`.

    members: for each, `network` and `arguments` as `raycls.models.networks.build` takes them, and `scale` and `shift`
    (one for each channel), which make of this network's normalised images those that the member learned from.
    """

    _scales: Tensor
    _shifts: Tensor

    def __init__(self, members: Sequence[dict[str, Any]], num_classes: int, image_size: int):
        super().__init__()
        from raycls.models.networks import build

        built = [
            build(each["network"], num_classes=1, image_size=image_size, **each["arguments"])
            for each in members
        ]
        widths = [member.head.in_features for member in built]
        for member in built:
            member.head = nn.Identity()  # type: ignore[assignment]
        self.members = nn.ModuleList(built)
        self.any_size = all(member.any_size for member in built)
        for name in ("scale", "shift"):
            values = torch.tensor([each[name] for each in members]).view(len(members), 3, 1, 1)
            self.register_buffer(f"_{name}s", values, persistent=False)
        self.head = nn.Linear(sum(widths), num_classes)

    def features(self, images: Tensor) -> Tensor:
        parts = [
            member.embed(images * scale.to(images.dtype) + shift.to(images.dtype))  # type: ignore[operator]
            for member, scale, shift in zip(self.members, self._scales, self._shifts, strict=True)
        ]
        return torch.cat(parts, dim=1)


def combined(members: Sequence[tuple[Network, ModelCard]]) -> tuple[Network, ModelCard]:
    """Return the ensemble of trained networks (in eval mode, on the CPU) and its card, without metrics.

    Each counts as much as the others, at its own temperature. Raises ConfigError where they have other classes, another
    image size or another way of making images square.
    """
    first = members[0][1]
    for _, card in members[1:]:
        for what, own, other in (
            ("classes", sorted(card.classes), sorted(first.classes)),
            ("an image size", card.image_size, first.image_size),
            ("a way of making images square", card.resize, first.resize),
        ):
            if own != other:
                raise ConfigError(
                    f"an ensemble's members have {what} in common, and these have {other} and {own}"
                )
    described = [_described(card, first) for _, card in members]
    network = Ensemble(described, num_classes=len(first.classes), image_size=first.image_size)
    weights, biases = [], []
    for member, (source, card) in zip(network.members, members, strict=True):
        body = {name: value for name, value in source.state_dict().items() if not name.startswith("head.")}
        member.load_state_dict(body)
        weight, bias = _linear(source)
        rows = [card.classes.index(name) for name in first.classes]
        weights.append(weight[rows] / card.temperature)
        biases.append(bias[rows] / card.temperature)
    with torch.no_grad():
        network.head.weight.copy_(torch.cat(weights, dim=1) / len(members))
        network.head.bias.copy_(torch.stack(biases).mean(0))
    card = first.model_copy(
        update={
            "network": ENSEMBLE,
            "arguments": {"members": described},
            "metrics": {},
            "temperature": 1.0,
            "config": {},
            "learned_splits": tuple(sorted({split for _, card in members for split in card.learned_splits})),
            **provenance(),
        }
    )
    return network.eval(), card


def _described(card: ModelCard, first: ModelCard) -> dict[str, Any]:
    """Return what `Ensemble` takes: (x - mean) / std of the member is scale × that of the first one + shift."""
    own, of_first = zip(card.mean, card.std, strict=True), zip(first.mean, first.std, strict=True)
    pairs = list(zip(own, of_first, strict=True))
    return {
        "network": card.network,
        "arguments": card.arguments,
        "scale": [std0 / std for (_, std), (_, std0) in pairs],
        "shift": [(mean0 - mean) / std for (mean, std), (mean0, _) in pairs],
    }


@torch.no_grad()
def _linear(network: Network) -> tuple[Tensor, Tensor]:
    """Return weight (C×D) and bias (C) of the function from an embedding to logits, which may do more than the head."""
    width = network.head.in_features
    bias = network.classify(torch.zeros(1, width))[0]
    return (network.classify(torch.eye(width)) - bias).T, bias
