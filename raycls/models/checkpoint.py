"""A checkpoint: a directory that describes itself, from which a network is rebuilt with nothing else at hand.

    save(directory, network, card)
    network, card = load(directory)
    fresh = transfer(other_network, other_card, directory)   # fine-tuning: other classes, another image size

`model.safetensors` holds the weights, `model.json` the card. For resuming, the training loop adds
`training_state.pt`. Nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from raycls.errors import CheckpointError, ConfigError
from raycls.models.networks import MLP, build

WEIGHTS, CARD = "model.safetensors", "model.json"


class ModelCard(BaseModel):
    """What a network is, what it was trained on and how, and how it fared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str = Field(description="name in raycls.models.networks")
    arguments: dict[str, Any] = Field(
        description="the network's own arguments: dropout, and widths where its shape is not fixed"
    )
    classes: tuple[str, ...] = Field(description="class names, in the order of the logits")
    image_size: int = Field(description="side of the square input, pixels")
    mean: tuple[float, float, float] = Field(description="per channel, in units of the 0..1 range")
    std: tuple[float, float, float] = Field(description="per channel, in units of the 0..1 range")
    metrics: dict[str, float] = Field(description="under their names in MLflow: val_accuracy, val_loss, …")
    dataset: str
    dataset_fingerprint: str
    config: dict[str, Any] = Field(description="the raycls.config.Config of the run")
    seed: int
    code_version: str
    libraries: dict[str, str] = Field(description="versions that the weights were made with")

    def build(self) -> nn.Module:
        """The card's network, freshly initialised, without its weights."""
        arguments = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.arguments.items()
        }
        return build(self.network, num_classes=len(self.classes), image_size=self.image_size, **arguments)


def provenance() -> dict[str, Any]:
    """The card's fields that come from the running program: its own version and its libraries'."""
    libraries = {name: version(name) for name in ("torch", "numpy", "pillow", "ray")}
    try:
        own = version("raycls")
    except PackageNotFoundError:  # run from a working directory that `ray job submit` unpacked
        own = "uninstalled"
    return {"code_version": own, "libraries": {"python": platform.python_version(), **libraries}}


def save(directory: Path, network: nn.Module, card: ModelCard) -> None:
    """Write both files; the card last, so that its existence means that the weights are whole."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, directory / WEIGHTS)
    (directory / CARD).write_text(card.model_dump_json(indent=2) + "\n")


def load_card(directory: Path) -> ModelCard:
    """Raises CheckpointError where there is no card, or one that does not follow the schema."""
    path = directory / CARD
    try:
        return ModelCard.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is no checkpoint: it has no {CARD}") from None
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


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


def sha256(directory: Path) -> str:
    """One hex digest over the weights and the card: the identity of a model version."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, CARD):
        try:
            digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
        except OSError as error:
            raise CheckpointError(f"{directory} is no whole checkpoint: {error.strerror}: {name}") from None
    return digest.hexdigest()


def update_metrics(directory: Path, metrics: dict[str, float]) -> ModelCard:
    """Add figures that are known only after the weights were saved (the test split's) to the card."""
    card = load_card(directory)
    card = card.model_copy(update={"metrics": {**card.metrics, **metrics}})
    (directory / CARD).write_text(card.model_dump_json(indent=2) + "\n")
    return card
