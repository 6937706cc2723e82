"""The configuration of a training run, chosen by the dataset and by how the weights start.

    config = configured(open_dataset("pets").info)                                      # from random weights
    config = configured(open_dataset("pets").info, init=load_card(directory))           # from a trained model
    config = configured(open_dataset("pets").info, network="resnet18", pretrained=True) # from weights of others
    config = configured(open_dataset("pets").info, settings=["lr=0.2"], init=card)      # with a rate of one's own

A run that starts from a trained model changes it in small steps: it takes a tenth of the learning rate, after a
warm-up, and images of full size. Where many of the images are new to the model, it takes the whole rate: with half of
them new, a tenth was up to five points worse (benchmarks/results/finetuning.md). This module knows configurations,
datasets and cards, not registries.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raycls.config import Config, override, path_of
from raycls.data.layout import versions_of
from raycls.data.packed import DatasetInfo
from raycls.data.resized import sized
from raycls.data.versions import open_dataset
from raycls.errors import ConfigError
from raycls.models.card import ENSEMBLE, ModelCard
from raycls.models.checkpoint import fresh_weights
from raycls.training.memory import gpu_memory
from raycls.training.presets import preset, tuned
from raycls.training.setup import card_for

LR_SHARE = 0.1  # of the learning rate for random weights
WARMUP = 0.1  # share of the steps
# Of weights that others have trained on many pictures: all of it learns, the layers next to the image least
# (arXiv:1801.06146), at rates that are usual for AdamW.
PRETRAINED: dict[str, Any] = {
    "optim.name": "adamw",
    "optim.lr": 3e-4,
    "optim.layer_decay": 0.7,
    "optim.schedule": "cosine",
    "optim.warmup": WARMUP,
}
# Of public networks.
PUBLIC = {"network.statistics": "pretrained", "training.fitted_head": True}
# Of public networks with batch norms, which know the statistics of a million pictures: with those of a batch of 32
# instead, three of ten clothes that the network knew were wrong before its first step. At a rate of 0.002 and
# without the limit of the gradient, it forgot what it knew.
NORMED = {
    "training.frozen_norms": True,
    "optim.lr": 1e-3,
    "optim.layer_decay": 0.85,
    "optim.clip_norm": 1.0,
}
MANY_NEW = 0.3  # share of the training images: measured were 0.1, where all rates are equal, and 0.5


def configured(
    info: DatasetInfo,
    name: str = "fast",
    *,
    network: str | None = None,
    settings: Iterable[str] = (),
    init: ModelCard | None = None,
    pretrained: bool = False,
    use_gpu: bool | None = None,
) -> Config:
    """Return the preset `name` for a dataset, with the settings (`KEY=VALUE`) applied.

    init: the card of the model whose weights the run starts from. The run then has this model's network by default,
    and rates for fine-tuning where no setting gives others. pretrained: the weights are from elsewhere, as of
    `--weights`. use_gpu: False where it does not train on a GPU of this machine, whose free memory limits the batch.
    Raises ConfigError.
    """
    settings = list(settings)
    if init and init.network == ENSEMBLE:
        members = (
            "train its folds anew"
            if "val" in init.learned_splits
            else "start from one of its members, which `raycls models show` names"
        )
        raise ConfigError(f"an ensemble is not trained further: {members}")
    if init and init.dataset == info.name and "val" in init.learned_splits:
        raise ConfigError(
            "the model to start from has learned val, so that val could not judge what comes of it: start from the "
            "version that it was refitted from, which `raycls models show` names"
        )
    own = _of_parent(init, info) if init and network is None else []
    memory = None if use_gpu is False else gpu_memory()
    taken = network or (init.network if init else None)
    base = preset(name, info, taken, memory)
    config = override(base, [*own, *settings])
    if config.network.image_size:
        info = sized(info, config.network.image_size)
        base = preset(name, info, taken, memory)
        config = override(base, [*own, *settings])
    given = {path_of(config, setting.partition("=")[0]) for setting in settings}
    if init is None and not pretrained:
        if config.training.probe or config.training.frozen_stages:
            raise ConfigError(
                "a part of the network does not learn: say where its weights come from, with --weights or --init MODEL"
            )
        return config
    if init is None:
        recipe = _pretrained(config, name, info)
    else:
        fresh = fresh_weights(card_for(config, info, init), init)
        recipe = _fine_tuning(config, name, info, fresh, _share_of_new(info, init))
    if config.training.frozen_stages:  # each image is seen once
        recipe |= {"augment.translate": 0, "augment.crop": 0, "training.reduced_share": 0}
    if "optim.name" in given and config.optim.name != recipe.get("optim.name", config.optim.name):
        recipe.pop("optim.lr", None)  # that of another optimiser
    recipe = {path: value for path, value in recipe.items() if path not in given}
    return override(base, [*(f"{path}={value}" for path, value in recipe.items()), *own, *settings])


def _of_parent(init: ModelCard, info: DatasetInfo) -> list[str]:
    """Return the settings of the network that a run has in common with the model that it starts from."""
    own = ["network.mirror=true"] if init.arguments.get("mirror") else []
    side = init.config["network"].get("image_size")
    if side and side < info.image_size:
        own.append(f"network.image_size={side}")
    if widths := init.arguments.get("widths"):
        own.append(f"network.widths={list(widths)}")
    return own


def _pretrained(config: Config, name: str, info: DatasetInfo) -> dict[str, Any]:
    """Return the settings of a run with the preset `name` whose weights others have trained."""
    from raycls.models.networks import has_batch_norms, has_public_weights  # imports PyTorch

    network = config.network.name
    recipe = PRETRAINED | tuned(name, info, network)
    if not has_public_weights(network):
        return recipe | {"optim.head_lr_factor": 10.0}
    return recipe | PUBLIC | (NORMED if has_batch_norms(network) else {})


def _share_of_new(info: DatasetInfo, init: ModelCard) -> float:
    """Return the share of the training images that a model has not learned from, 0 to 1.

    0 where it learned from another dataset, of which it shall keep what it knows, or from a version that is not here.
    """
    if init.dataset != info.name or init.dataset_version not in (info.version, *versions_of(info.name)):
        return 0.0
    former = info
    if init.dataset_version != info.version:
        former = open_dataset(f"{info.name}@{init.dataset_version}").info
    fraction = init.config["training"]["train_fraction"]
    return max(0.0, 1 - fraction * former.counts["train"] / info.counts["train"])


def _fine_tuning(
    config: Config, name: str, info: DatasetInfo, fresh: list[str], new: float
) -> dict[str, Any]:
    """Return the settings of a run with the preset `name` whose weights are trained, all but the fresh ones.

    new: share of new images.
    """
    from raycls.models.networks import has_public_weights  # imports PyTorch

    if any(not name.startswith("head.") for name in fresh):
        return {}  # the first layers start anew, and all others depend on them
    if has_public_weights(config.network.name):
        # As from public weights, but with a head that is trained where its classes are. Its rates were not measured.
        recipe = _pretrained(config, name, info)
        if new < MANY_NEW:
            recipe["optim.lr"] = 1e-4
        del recipe["network.statistics"]  # the parent's are taken
        return recipe if fresh else recipe | {"training.fitted_head": False}
    share = LR_SHARE if new < MANY_NEW else 1.0
    return {
        "optim.lr": float(f"{share * config.optim.lr:.6g}"),
        # New classes have random rows of the head, which learn with the rate of random weights.
        "optim.head_lr_factor": 1 / share if fresh else 1.0,
        "optim.warmup": WARMUP,
        "training.reduced_share": 0.0,
    }
