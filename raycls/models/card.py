"""What a checkpoint says of itself, and its identity: all of it that takes no PyTorch.

    card = load_card(directory)
    card.classes, card.image_size

Knows the files of a checkpoint directory (raycls/models/checkpoint.py writes them) and nothing of weights.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycls.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

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
        from raycls.models.networks import build  # with PyTorch, which only who needs the network pays for

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


def load_card(directory: Path) -> ModelCard:
    """Raises CheckpointError where there is no card, or one that does not follow the schema."""
    path = directory / CARD
    try:
        return ModelCard.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is no checkpoint: it has no {CARD}") from None
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


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
