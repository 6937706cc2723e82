"""Checkpoints: a network is saved to a directory and rebuilt from that directory alone.

    save(directory, network, card)
    network, card = load(directory)
    fresh = transfer(other_network, other_card, directory)   # fine-tuning: other classes, another image size

`model.safetensors` holds the weights, `model.json` the card. The training loop adds `training_state.pt` for resuming.
Nothing in this module unpickles, so an untrusted checkpoint cannot run code. It does not know where checkpoints are
kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raycls.errors import CheckpointError, ConfigError
from raycls.models.base import Network
from raycls.models.card import CARD, WEIGHTS, ModelCard, load_card


def save(directory: Path, network: nn.Module, card: ModelCard) -> None:
    """Write the weights, then the card. If the card exists, the weights are complete."""
    directory.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in network.state_dict().items():
        kept = tensor.detach().cpu().contiguous()
        # safetensors takes no two names of one place in memory, as modules have that are used twice.
        weights[name] = kept.clone() if kept.data_ptr() in places else kept
        places.add(kept.data_ptr())
    save_file(weights, directory / WEIGHTS)
    (directory / CARD).write_text(card.model_dump_json(indent=2) + "\n")


def load(directory: Path) -> tuple[Network, ModelCard]:
    """Return the network (eval mode, CPU, float32) and its card. Raises CheckpointError if a file is damaged."""
    card = load_card(directory)
    network = card.build()
    try:
        network.load_state_dict(load_file(directory / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{directory / WEIGHTS} is damaged: {str(error).splitlines()[0]}") from None
    return network.eval(), card


def transfer(network: Network, card: ModelCard, directory: Path) -> list[str]:
    """Copy a checkpoint's weights into a new network. Return the names of weights that stay random (`fresh_weights`).

    card describes the new network. Classes and image size may differ from those of the checkpoint. Rows of the head
    are copied for classes of the same name, and what depends on the image size is fitted to it. Raises CheckpointError
    for a damaged checkpoint, ConfigError for another network or other widths.
    """
    source, source_card = load(directory)
    fresh = fresh_weights(card, source_card)
    given = source.state_dict()
    if card.image_size != source_card.image_size:
        given = network.resized(given)
    rows = [row for row, name in enumerate(card.classes) if name in source_card.classes]
    source_rows = [source_card.classes.index(card.classes[row]) for row in rows]
    # Matched by position: a cnn for another image size may have fewer poolings, which shifts the numbers in the names.
    for (name, tensor), value in zip(network.state_dict().items(), given.values(), strict=True):
        if name.startswith("head."):
            tensor[rows] = value[source_rows].to(tensor.device)
        elif name not in fresh:
            tensor.copy_(value)
    return fresh


def fresh_weights(card: ModelCard, source: ModelCard) -> list[str]:
    """Return the names of weights that a network of `card` cannot take from one of `source`, at least in part.

    They are the head's, if it has new classes, and those of a fastcnn's first two layers, if the size of its patches
    differs (images of 192 pixels or more). Raises ConfigError for another network or other widths.
    """
    _check_same_kind(card, source)
    with torch.device("meta"):  # shapes without values
        own, other = card.build(), source.build()
    fresh = []
    for (name, tensor), value in zip(own.state_dict().items(), other.state_dict().values(), strict=True):
        if name.startswith("head."):
            if not set(card.classes) <= set(source.classes):
                fresh.append(name)
        elif tensor.shape != value.shape and not own.resizes(name):
            fresh.append(name)
    return fresh


def _check_same_kind(card: ModelCard, source: ModelCard) -> None:
    """Raise ConfigError unless both cards have the same network and widths."""

    def kind(of: ModelCard) -> str:
        widths = of.arguments.get("widths")
        return f"--network {of.network}" + (f" --set widths={json.dumps(list(widths))}" if widths else "")

    if kind(card) != kind(source):
        raise ConfigError(
            f"the model to start from has {kind(source)}, but this run has {kind(card)}: use {kind(source)}"
        )
