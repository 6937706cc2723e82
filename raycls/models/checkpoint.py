"""A checkpoint: a directory that describes itself, from which a network is rebuilt with nothing else at hand.

    save(directory, network, card)
    network, card = load(directory)
    fresh = transfer(other_network, other_card, directory)   # fine-tuning: other classes, another image size

`model.safetensors` holds the weights, `model.json` the card. For resuming, the training loop adds
`training_state.pt`. Nothing here unpickles.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from raycls.errors import CheckpointError, ConfigError
from raycls.models.card import CARD, WEIGHTS, ModelCard, load_card
from raycls.models.networks import MLP


def save(directory: Path, network: nn.Module, card: ModelCard) -> None:
    """Write both files; the card last, so that its existence means that the weights are whole."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, directory / WEIGHTS)
    (directory / CARD).write_text(card.model_dump_json(indent=2) + "\n")


def load(directory: Path) -> tuple[nn.Module, ModelCard]:
    """The network in eval mode on the CPU in float32, and its card. Raises CheckpointError when either is damaged."""
    card = load_card(directory)
    network = card.build()
    try:
        network.load_state_dict(load_file(directory / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{directory / WEIGHTS} is damaged: {str(error).splitlines()[0]}") from None
    return network.eval(), card


def transfer(network: nn.Module, card: ModelCard, directory: Path) -> list[str]:
    """Start a fresh network, which card describes, from a checkpoint of the same kind and widths.

    Classes and image size may differ: the head's rows are copied for the classes whose names match, and an mlp's first
    layer is resampled. Returns the names of the weights that stay fresh in whole or in part: the head's where
    it has new classes; a fastcnn's first two layers where images of 192 pixels or more change the size of its patches.
    Raises CheckpointError for a damaged checkpoint, ConfigError for another network or other widths.
    """
    source, source_card = load(directory)
    _same_kind(card, source_card)
    given = source.state_dict()
    if isinstance(network, MLP):
        given["layers.1.weight"] = network.resampled(given["layers.1.weight"])
    rows = [row for row, name in enumerate(card.classes) if name in source_card.classes]
    source_rows = [source_card.classes.index(card.classes[row]) for row in rows]
    fresh = []
    # By position: a cnn of another size may pool less often, which shifts the numbers in its names.
    for (name, tensor), value in zip(network.state_dict().items(), given.values(), strict=True):
        if name.startswith("head."):
            tensor[rows] = value[source_rows].to(tensor.device)
            if len(rows) < len(card.classes):
                fresh.append(name)
        elif tensor.shape == value.shape:
            tensor.copy_(value)
        else:
            fresh.append(name)
    return fresh


def _same_kind(card: ModelCard, source: ModelCard) -> None:
    def kind(of: ModelCard) -> str:
        widths = of.arguments.get("widths")
        return f"--network {of.network}" + (f" --set widths={json.dumps(list(widths))}" if widths else "")

    if kind(card) != kind(source):
        raise ConfigError(
            f"the model to start from was made with {kind(source)}, this run has {kind(card)}: give the former"
        )
