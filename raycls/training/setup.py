"""Prepare a training run: build the network and its card, and check the configuration against the dataset.

    check(config, open_dataset("cifar10"), workers=2)
    network = untrained(config, open_dataset("cifar10"))

raycls/training/loop.py trains the network.
"""

from __future__ import annotations

from typing import Any

import torch

from raycls.config import AugmentConfig, Config
from raycls.data.packed import DatasetInfo, PackedDataset
from raycls.data.resized import sized
from raycls.errors import ConfigError
from raycls.models.base import Network
from raycls.models.card import ModelCard, provenance
from raycls.models.forward import compute_dtype
from raycls.models.networks import FastCNN, build, public_statistics
from raycls.training.sampling import images_in_use

REDUCED = 11 / 16  # image side in the first epochs, as a share of the full side: 22 of CIFAR-10's 32 pixels
WHITENING_PIXELS = 5_000 * 32 * 32  # total pixels of the images that initialise the whitening layer


def check(config: Config, dataset: PackedDataset, workers: int = 1) -> None:
    """Raise ConfigError if the configuration does not fit the dataset or the number of workers."""
    images = images_in_use(config, dataset)
    if config.training.batch_size > images:
        raise ConfigError(
            f"training.batch_size={config.training.batch_size} is more than the {images} training images in use; "
            f"try --set batch_size={max(2, images // 16)}"
        )
    if workers > config.training.batch_size // 2:
        raise ConfigError(
            f"training.batch_size={config.training.batch_size} gives {workers} workers less than two images each: "
            f"try --workers {max(1, config.training.batch_size // 2)}"
        )
    side = sized(dataset.info, config.network.image_size).image_size
    if side > dataset.info.image_size:
        raise ConfigError(
            f"network.image_size={side} is more than the {dataset.info.image_size} pixels of {dataset.info.reference}: "
            f"prepare it with --size {side}"
        )
    for name in ("translate", "cutout"):
        if getattr(config.augment, name) >= side:
            raise ConfigError(
                f"augment.{name}={getattr(config.augment, name)} leaves nothing of images of {side} pixels"
            )
    network = untrained(config, dataset)
    _check_size(network, config.network.name, side)
    if config.training.reduced_share and network.any_size:
        _check_size(network, config.network.name, int(side * REDUCED))
    if config.training.reduced_share and not network.any_size:
        raise ConfigError(f"{config.network.name} takes one image size only: --set training.reduced_share=0")
    if config.optim.name == "muon" and not isinstance(network, FastCNN):
        raise ConfigError(
            f"optim.name=muon has learning rates for fastcnn, under which {config.network.name} does not learn: take "
            "adamw or sgd"
        )
    if (config.training.probe or config.training.fitted_head) and network.head.bias is None:
        raise ConfigError(
            f"the head of {config.network.name} has no bias, which a probe or fitted_head needs: take another network"
        )
    if config.training.frozen_epochs >= config.training.epochs:
        raise ConfigError(
            f"training.frozen_epochs={config.training.frozen_epochs} leaves none of {config.training.epochs} epochs in "
            "which the whole network learns: --preset probe trains the head alone"
        )
    if stages := config.training.frozen_stages:
        _check_frozen(config, network, stages)
    if config.training.freeze_after < 1 and not hasattr(network, "freeze_early"):
        raise ConfigError(
            f"{config.network.name} has no early layers to freeze: --set training.freeze_after=1"
        )


def check_precision(config: Config, scaling: dict[str, Any]) -> None:
    """Raise ConfigError if the workers of a ScalingConfig's arguments cannot compute in the wanted precision."""
    if not scaling.get("use_gpu"):
        compute_dtype(config.training.precision, torch.device("cpu"))


def _check_frozen(config: Config, network: Network, stages: int) -> None:
    """Raise ConfigError where stages cannot be frozen, or where a setting needs what they make of changed images."""
    if stages >= len(network.stages()):
        raise ConfigError(
            f"{config.network.name} has {len(network.stages())} stages, and the last one has to learn: --preset probe "
            "trains the head alone"
        )
    network.boundary(stages)
    plain = AugmentConfig(translate=0, flip=config.augment.flip)
    changed = [
        name for name, value in config.augment.model_dump().items() if value != getattr(plain, name)
    ] + (["reduced_share"] if config.training.reduced_share else [])
    if changed:
        raise ConfigError(
            f"training.frozen_stages={stages} sees each image, and its mirror image, once: {', '.join(changed)} must "
            "be off"
        )


@torch.inference_mode()
def _check_size(network: Network, name: str, side: int) -> None:
    """Raise ConfigError where the network leaves nothing of an image. Which ones do is known only by trying."""
    try:
        found = network.eval().embed(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{name} takes no images of {side} pixels ({str(error).splitlines()[0][:150]}): prepare the dataset with "
            "another --size, or take another network"
        ) from None
    if found.shape != (1, network.head.in_features):
        raise ConfigError(
            f"{name} makes no vector of an image, which a classifier needs: take another network"
        )


def untrained(config: Config, dataset: PackedDataset) -> Any:
    """Return the configuration's network for this dataset, with random weights, on the CPU."""
    info = sized(dataset.info, config.network.image_size)
    return build(
        config.network.name,
        num_classes=len(info.classes),
        image_size=info.image_size,
        **config.network.arguments(),
    )


def card_for(config: Config, info: DatasetInfo, parent: ModelCard | None = None) -> ModelCard:
    """Return the model card for checkpoints of this configuration. Its metrics are empty.

    parent: the card of the checkpoint that the weights come from. Its normalisation replaces the configuration's,
    because the weights expect it. A pruned network has the parent's channels.
    """
    info = sized(info, config.network.image_size)
    mean, std = (parent or info).mean, (parent or info).std
    if parent is None and config.network.statistics == "pretrained":
        mean, std = public_statistics(config.network.name)
    arguments = config.network.arguments()
    if parent and parent.network == config.network.name and "channels" in parent.arguments:
        arguments["channels"] = parent.arguments["channels"]
    return ModelCard(
        network=config.network.name,
        arguments=arguments,
        classes=info.classes,
        image_size=info.image_size,
        mean=mean,
        std=std,
        metrics={},
        resize=info.resize,
        dataset=info.name,
        dataset_version=info.version,
        dataset_fingerprint=info.fingerprint,
        config=config.model_dump(mode="json"),
        seed=config.training.seed,
        **provenance(),
    )


def whitening_sample(image_size: int) -> int:
    """Return how many images of this side (pixels) initialise the whitening layer.

    Larger images mean fewer of them: all their patches are in memory at the same time.
    """
    return max(20, WHITENING_PIXELS // image_size**2)
