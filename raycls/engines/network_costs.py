"""What a network costs before it is trained: parameters, multiplications, and the time of a forward pass here.

cost("resnet18", size=224, timed=True)
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from raycls.config import Engine
from raycls.engines import build as engines
from raycls.engines.build import first_line
from raycls.errors import ConfigError, EngineError
from raycls.models.base import Network
from raycls.models.card import ModelCard, provenance
from raycls.models.macs import macs

CLASSES = 10
ROUNDS, WARM_UP, LONGEST_S = 20, 2, 2.0  # passes of one image, and the seconds after which no more are made
THREADS = 1  # as in a replica


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a network.

    macs: multiply-accumulates for one image. stages: of its body, as `training.frozen_stages` counts them. ms: median
    for one image, by engine.
    """

    name: str
    image_size: int
    parameters: int
    macs: int
    stages: int
    ms: dict[Engine, float] = field(default_factory=dict)


def cost(name: str, size: int, *, timed: bool = False) -> Cost:
    """Return what a network costs for square images of `size` pixels. Raises ConfigError."""
    card = _card(name, size)
    return cost_of(card.build().eval(), card, timed=timed)


def cost_of(network: Network, card: ModelCard, *, timed: bool = False) -> Cost:
    """Return what a network in eval mode costs for images of its card's size. Raises ConfigError."""
    name, size = card.network, card.image_size
    try:
        multiplied = macs(network, size)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ConfigError(f"{name} takes no images of {size} pixels: {first_line(error)}") from None
    return Cost(
        name=name,
        image_size=size,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        stages=len(network.stages()),
        macs=multiplied,
        ms=_ms(network, card) if timed else {},
    )


def _ms(network: Network, card: ModelCard) -> dict[Engine, float]:
    """Return the time of each engine that runs the network on this machine."""
    device, size = engines.best_device(), card.image_size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    found: dict[Engine, float] = {}
    before = torch.get_num_threads()
    try:
        for engine in engines.candidates(device):
            try:
                run = engines.build(engine, copy.deepcopy(network), card, device, THREADS)
            except EngineError:  # the network has no place in the answer
                continue
            found[engine] = median_ms(run, image)
    finally:
        torch.set_num_threads(before)
    return found


@torch.inference_mode()
def median_ms(run: Callable[[np.ndarray], Any], image: np.ndarray) -> float:
    """Return the median time of a pass over this batch, milliseconds."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < WARM_UP + ROUNDS and (
        len(times) <= WARM_UP or time.perf_counter() - began < LONGEST_S
    ):
        started = time.perf_counter()
        run(image)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[WARM_UP:])


def _card(name: str, size: int) -> ModelCard:
    fields: dict[str, Any] = {
        "network": name,
        "arguments": {},
        "classes": tuple(str(number) for number in range(CLASSES)),
        "image_size": size,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "metrics": {},
        "dataset": "none",
        "dataset_fingerprint": "none",
        "config": {},
        "seed": 0,
    }
    return ModelCard(**fields, **provenance())
