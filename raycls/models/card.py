"""The model card of a checkpoint, and the checkpoint's digest. Neither needs PyTorch.

    card = load_card(directory)
    card.classes, card.image_size

A program that only needs classes and metrics reads the card without importing PyTorch. This module knows the files of a
checkpoint directory, which raycls/models/checkpoint.py writes. It does not read the weights.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycls.data.transforms import Resize
from raycls.errors import CheckpointError

if TYPE_CHECKING:
    from raycls.models.base import Network

WEIGHTS, CARD = "model.safetensors", "model.json"
ENSEMBLE = "ensemble"  # the network of raycls/models/ensemble.py
# The accuracy on val of a model that learned val. Promotion looks whether the version still has it: it says no more.
SEEN = "seen_val_accuracy"
DRIFT = "drift.json"  # raycls/drift/file.py; versions with too few validation images have none


class ModelCard(BaseModel):
    """The description of a trained network: its shape, its dataset, its training and its metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str = Field(description="name in raycls.models.networks")
    arguments: dict[str, Any] = Field(
        description="the network's own arguments: dropout, widths unless its shape is fixed, channels if it was pruned"
    )
    classes: tuple[str, ...] = Field(description="class names, in the order of the logits")
    image_size: int = Field(description="side of the square input, pixels")
    mean: tuple[float, float, float] = Field(description="per channel, in units of the 0..1 range")
    std: tuple[float, float, float] = Field(description="per channel, in units of the 0..1 range")
    metrics: dict[str, float] = Field(description="by their names in MLflow: val_accuracy, val_loss, …")
    resize: Resize = Field("crop", description="how an image becomes a square")
    temperature: float = Field(
        1.0, gt=0, description="what logits are divided by, so that a confidence is a probability"
    )
    dataset: str
    dataset_version: int = 1
    learned_splits: tuple[str, ...] = Field(
        ("train",), description="splits of the dataset with images that the weights learned from"
    )
    dataset_fingerprint: str
    config: dict[str, Any] = Field(description="the raycls.config.Config of the run")
    seed: int
    code_version: str
    libraries: dict[str, str] = Field(description="versions at the time of training")

    @property
    def learned_from(self) -> tuple[str, str, int]:
        """Name, fingerprint and version of the dataset, as `raycls.data.versions.open_by_fingerprint` takes them."""
        return self.dataset, self.dataset_fingerprint, self.dataset_version

    @property
    def unseen(self) -> str:
        """The split that says how the model does on new images, without being the one that promotion compares on."""
        return "test" if "val" in self.learned_splits else "val"

    def build(self) -> Network:
        """Return the card's network with random weights."""
        from raycls.models.networks import build  # imports PyTorch, which a reader of the card does not need

        arguments = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.arguments.items()
        }
        return build(self.network, num_classes=len(self.classes), image_size=self.image_size, **arguments)


def provenance() -> dict[str, Any]:
    """Return the card's fields that describe the running program: code_version and libraries."""
    libraries = {name: version(name) for name in ("torch", "numpy", "pillow", "ray")}
    try:
        own = version("raycls")
    except PackageNotFoundError:  # `ray job submit` runs raycls from an unpacked directory
        own = "uninstalled"
    return {"code_version": own, "libraries": {"python": platform.python_version(), **libraries}}


def load_card(directory: Path) -> ModelCard:
    """Return the card of a checkpoint directory. Raises CheckpointError if the card is missing or damaged."""
    path = directory / CARD
    try:
        return ModelCard.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is not a checkpoint: it has no {CARD}") from None
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def sha256(directory: Path) -> str:
    """Return a hex digest of the weights and the card, which identifies a model version. Raises CheckpointError."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, CARD):
        try:
            digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
        except OSError as error:
            raise CheckpointError(
                f"{directory} is not a complete checkpoint: {error.strerror}: {name}"
            ) from None
    return digest.hexdigest()


def update_card(directory: Path, *, metrics: dict[str, float], **more: Any) -> ModelCard:
    """Add what is known after the card was saved, and return the card: metrics, and the values of other fields."""
    card = load_card(directory)
    card = card.model_copy(update={"metrics": {**card.metrics, **metrics}, **more})
    (directory / CARD).write_text(card.model_dump_json(indent=2) + "\n")
    return card
