"""The configuration of a training run, chosen by the dataset and by how the weights start.

    config = configured(open_dataset("pets").info)                                      # from random weights
    config = configured(open_dataset("pets").info, init=load_card(directory))           # from a trained model
    config = configured(open_dataset("pets").info, settings=["lr=0.2"], init=card)      # with a rate of one's own

A run that starts from a trained model changes it in small steps: it takes a tenth of the learning rate, after a
warm-up, and images of full size. benchmarks/results/finetuning.md compares this with the rates of a new network, which
can learn more from many new images (`optim.lr`). This module knows configurations and cards, not registries.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raycls.config import Config, override, path_of, preset
from raycls.data.packed import DatasetInfo
from raycls.models.card import ModelCard
from raycls.models.checkpoint import fresh_weights
from raycls.training.setup import card_for

LR_SHARE = 0.1  # of the learning rate for random weights
WARMUP = 0.1  # share of the steps


def configured(
    info: DatasetInfo,
    name: str = "fast",
    *,
    network: str | None = None,
    settings: Iterable[str] = (),
    init: ModelCard | None = None,
) -> Config:
    """Return the preset `name` for a dataset, with the settings (`KEY=VALUE`) applied.

    init: the card of the model whose weights the run starts from. The run then has this model's network by default,
    and rates for fine-tuning where no setting gives others. Raises ConfigError.
    """
    settings, own = list(settings), []
    if init and network is None:
        network = init.network
        if widths := init.arguments.get("widths"):
            own.append(f"network.widths={list(widths)}")
    config = override(preset(name, info, network), [*own, *settings])
    if init is None:
        return config
    given = {path_of(config, setting.partition("=")[0]) for setting in settings}
    recipe = _fine_tuning(config, fresh_weights(card_for(config, info), init))
    return override(config, [f"{path}={value}" for path, value in recipe.items() if path not in given])


def _fine_tuning(config: Config, fresh: list[str]) -> dict[str, Any]:
    """Return the settings of a run whose weights are trained, all but the fresh ones."""
    if any(not name.startswith("head.") for name in fresh):
        return {}  # the first layers start anew, and all others depend on them
    return {
        "optim.lr": float(f"{LR_SHARE * config.optim.lr:.6g}"),
        # New classes have random rows of the head, which learn with the rate of random weights.
        "optim.head_lr_factor": 1 / LR_SHARE if fresh else 1.0,
        "optim.warmup": WARMUP,
        "training.reduced_share": 0.0,
    }
