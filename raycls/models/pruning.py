"""Structured pruning: a smaller network of the channels that matter most in a trained one.

    network, card = pruned(*checkpoint.load(directory), share=0.5)      # at most half of the multiplications
    checkpoint.save(smaller, network, card)

The library torch-pruning (arXiv:2301.12900) finds which layers lose a channel together. Every such group of layers
loses the same share of its channels, those of the smallest magnitude. The network has forgotten much, and is trained
again: raycls/training/prune.py. The card describes the result, as `widths` where the network has them, and else as
`channels` (raycls/models/channels.py), so that this module alone needs the library.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from typing import Any

import torch
from torch import nn

from raycls import progress
from raycls.errors import ConfigError, UsageError
from raycls.models.base import Network
from raycls.models.card import ENSEMBLE, ModelCard
from raycls.models.channels import channels_of
from raycls.models.macs import macs
from raycls.models.networks import CNN, MLP, FastCNN

STEPS = 7  # of the search for how many channels go
# Vector units compute this many channels at once, so that layers keep a multiple of it, unless one of them is narrow.
MULTIPLE = 8


def check() -> None:
    """Raise UsageError where the library is not installed."""
    if importlib.util.find_spec("torch_pruning") is None:
        raise UsageError("pruning needs torch-pruning: pip install 'raycls[prune]'")


def pruned(network: Network, card: ModelCard, *, share: float) -> tuple[Network, ModelCard]:
    """Return the network without `share` (0..1) of its multiply-accumulates, or a little more, and its card.

    network: in eval mode, on the CPU. The card has no metrics and temperature 1. Raises UsageError where the library is
    missing, ConfigError for a network that cannot be pruned, or not that much.
    """
    check()
    if card.network == ENSEMBLE:
        raise ConfigError(
            "an ensemble is not pruned: prune versions of which it could be made, and make an ensemble of them"
        )
    if not 0 < share < 1:
        raise ConfigError(f"--share {share:g}: give the share of the multiplications that goes, such as 0.5")
    size = card.image_size
    before = macs(network, size)
    low, high = 0.0, _most(network)
    with progress.bar("choosing channels", total=STEPS) as bar:
        found = _without(network, size, high)
        if (left := macs(found, size)) > (1 - share) * before:
            raise ConfigError(
                f"{card.network} can lose {1 - left / before:.0%} of its multiplications at most: give a smaller "
                "--share"
            )
        for _ in range(STEPS):
            middle = (low + high) / 2
            tried = _without(network, size, middle)
            if macs(tried, size) > (1 - share) * before:
                low = middle
            else:
                found, high = tried, middle
            bar.advance()
    smaller = card.model_copy(
        update={"arguments": card.arguments | _arguments(found, card), "metrics": {}, "temperature": 1.0}
    )
    return found, _checked(found, smaller)


def _without(network: Network, size: int, share: float) -> Network:
    """Return a copy of the network in which every group of layers has lost this share of its channels."""
    import torch_pruning

    smaller = copy.deepcopy(network)
    smaller.mirror = False  # the second pass has the same layers
    wanted = [parameter.requires_grad for parameter in smaller.parameters()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the library tells what it does with parameters outside of layers
            pruner = torch_pruning.pruner.BasePruner(
                smaller.requires_grad_(True),  # the library follows gradients through the network
                torch.zeros(1, 3, size, size),
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=share,
                ignored_layers=_kept(smaller),
                in_channel_groups={},  # the library's default is one dictionary, which would keep every network
                out_channel_groups={},
                round_to=_multiple(network),
            )
            pruner.step()
    except Exception as error:  # the library raises many types over a network that it cannot follow
        raise _impossible(network, str(error)) from error
    if isinstance(smaller, FastCNN):  # it divides by the number of features
        smaller.head.weight.data *= smaller.head.in_features / network.head.in_features
    for parameter, each in zip(smaller.parameters(), wanted, strict=True):
        parameter.requires_grad_(each)
        parameter.grad = None
    smaller.mirror = network.mirror
    return smaller


def _kept(network: Network) -> list[nn.Module]:
    """Return the modules that lose no channel that they make: those with a number of channels of their own."""
    whiten = [network.whiten] if isinstance(network, FastCNN) else []
    # A card does not say how channels are split among the heads of an attention.
    return [network.head, *whiten, *(module for module in network.modules() if hasattr(module, "num_heads"))]


def _narrowest(network: Network) -> int:
    """Return how many channels the narrowest layer that can lose some has."""
    kept = {id(each) for module in _kept(network) for each in module.modules()}
    layers = (each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear))
    return min((layer.weight.shape[0] for layer in layers if id(layer) not in kept), default=1)


def _multiple(network: Network) -> int:
    return MULTIPLE if _narrowest(network) >= 2 * MULTIPLE else 1


def _most(network: Network) -> float:
    """Return the largest share of the channels that leaves some to every layer."""
    # The library rounds down what is left: without the 1% it could leave nothing.
    return 1 - 1.01 * _multiple(network) / _narrowest(network)


def _arguments(network: Network, card: ModelCard) -> dict[str, Any]:
    """Return what describes the network's shape: `widths`, or `channels` by layer."""
    if not isinstance(network, FastCNN | CNN | MLP):
        return {"channels": channels_of(network, _whole(card).build())}
    if isinstance(network, FastCNN):
        return {"widths": [group.conv2.out_channels for group in network.groups]}  # type: ignore[union-attr]
    return {
        "widths": [each.weight.shape[0] for each in network.layers if isinstance(each, nn.Conv2d | nn.Linear)]
    }


def _whole(card: ModelCard) -> ModelCard:
    """Return the card of the network as it was before it was pruned."""
    arguments = {name: value for name, value in card.arguments.items() if name != "channels"}
    return card.model_copy(update={"arguments": arguments})


@torch.inference_mode()
def _checked(network: Network, card: ModelCard) -> ModelCard:
    """Return the card, as it is after it was written and read. Raise ConfigError if it gives another network."""
    card = ModelCard.model_validate_json(card.model_dump_json())
    again = card.build().eval()
    image = torch.rand(1, 3, card.image_size, card.image_size)
    try:
        again.load_state_dict(network.state_dict())
        # Weights that lie otherwise in memory are summed in another order.
        same = torch.allclose(again(image), network.eval()(image), rtol=1e-3, atol=1e-3)
    except RuntimeError as error:
        raise _impossible(network, str(error)) from None
    if not same:
        raise _impossible(network, "the smaller network computes something else than its description")
    return card


def _impossible(network: Network, reason: str) -> ConfigError:
    first = (reason.strip() or "the library cannot follow its layers").splitlines()
    return ConfigError(
        f"{network.name or type(network).__name__} cannot be pruned ({first[-1].strip()[:150]}): choose a smaller "
        "network with `raycls networks`"
    )
