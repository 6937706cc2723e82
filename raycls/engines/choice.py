"""The choice of the fastest engine on this machine, among the engines that agree with the reference.

    choice = choose(checkpoint_directory, images)     # choice.engine, choice.timings

This module knows checkpoint directories and images. The registry stores the choice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycls import progress
from raycls.config import Engine
from raycls.engines import build as engines
from raycls.engines.build import Device, Run
from raycls.engines.predictor import Predictor
from raycls.errors import CheckpointError, EngineError
from raycls.models.card import load_card

THREADS = 1  # CPU threads of a timed pass, like the default of `threads` in serve_config.yaml
ONE, MANY = 1, 32  # batch sizes, images: a single request, and a server under load
ROUNDS, WARM_UP = 20, 3  # timed and untimed passes of each engine
MOST_SECONDS = 3.0  # limit for the timed passes of all engines: large networks get fewer passes
PAUSE_S = 0.004  # before each pass: passes without a pause are faster than those of a replica
# Limits for an engine that agrees with the reference. A sound bfloat16 engine reaches about 0.99 and 0.003.
SAME_CLASS, MEAN_DIFFERENCE = 0.97, 0.02


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The speed of one engine, and its agreement with the reference."""

    engine: Engine
    one_ms: float  # median time of a batch of ONE image
    many_ms: float  # median time of a batch of MANY images
    same_class: float  # share of the images for which both predict the same class
    mean_difference: float  # mean absolute difference of the confidence (the largest probability)

    @property
    def agrees(self) -> bool:
        return self.same_class >= SAME_CLASS and self.mean_difference <= MEAN_DIFFERENCE

    @property
    def cost(self) -> float:
        """Return the product of both times, so that a batch of ONE and a batch of MANY count equally."""
        return self.one_ms * self.many_ms


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The fastest engine that agrees with the reference, and the timings of all engines.

    The reference itself is one of the candidates, so there is always a choice.
    """

    engine: Engine
    timings: tuple[Timing, ...]

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(timing) for timing in self.timings]

    def __str__(self) -> str:
        each = ", ".join(f"{t.engine} {t.one_ms:.2f} and {t.many_ms:.1f} ms" for t in self.timings)
        return f"{self.engine} is the fastest engine here (time for {ONE} image and for {MANY}: {each})"


def choose(directory: Path, images: np.ndarray, device: Device | None = None) -> Choice:
    """Time every engine on this machine and return the fastest that agrees with the reference.

    images: uint8 N×S×S×3, real images, as random ones would not show whether the engines agree. The engines take
    turns, so that a change in the machine's speed affects all of them. An engine that cannot run the network, or does
    not agree with the reference, is reported on stderr and not chosen. Raises CheckpointError if the reference's
    answers are not finite.
    """
    device = device or engines.best_device()
    before = torch.get_num_threads()
    try:
        runs = able(lambda engine: engines.load(engine, directory, device, THREADS), device)
        card = load_card(directory)
        answers = {
            engine: _probabilities(Predictor(run, card, engine), images) for engine, run in runs.items()
        }
        one, many = (
            {engine: statistics.median(times) for engine, times in _time(runs, images, count).items()}
            for count in (ONE, MANY)
        )
    finally:
        torch.set_num_threads(before)
    exact = answers["reference"]
    if not np.isfinite(exact).all():
        raise CheckpointError(f"the network in {directory} gives answers that are not finite: train it again")
    timings = tuple(
        Timing(
            engine=engine,
            one_ms=one[engine],
            many_ms=many[engine],
            same_class=float((answer.argmax(1) == exact.argmax(1)).mean()),
            mean_difference=float(np.abs(answer.max(1) - exact.max(1)).mean()),
        )
        for engine, answer in answers.items()
    )
    for timing in timings:
        if not timing.agrees:
            progress.say(
                f"engine {timing.engine} is not used: it predicts the class of the reference for "
                f"{timing.same_class:.1%} of {len(images)} images, and its confidence differs by "
                f"{timing.mean_difference:.3f} on average"
            )
    fit = [timing for timing in timings if timing.agrees]
    return Choice(engine=min(fit, key=lambda timing: timing.cost).engine, timings=timings)


def able(load: Callable[[Engine], Run], device: Device) -> dict[Engine, Run]:
    """Return the device's engines that can run the network. Report the others and the reason on stderr.

    load: returns an engine as a function, or raises EngineError if the engine cannot run the network.
    """
    runs: dict[Engine, Run] = {}
    for engine in engines.candidates(device):
        try:
            runs[engine] = load(engine)
        except EngineError as error:
            progress.say(f"engine {engine} is not used: {error}")
    return runs


def _probabilities(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), MANY)
    return np.concatenate([predictor.probabilities(images[start : start + MANY]) for start in starts])


def _time(runs: dict[Engine, Run], images: np.ndarray, count: int) -> dict[Engine, list[float]]:
    """Return the times of each engine's passes over a batch of `count` images, in milliseconds."""
    batch = np.resize(images, (count, *images.shape[1:]))
    times: dict[Engine, list[float]] = {engine: [] for engine in runs}
    deadline = time.perf_counter() + MOST_SECONDS
    for turn in range(WARM_UP + ROUNDS):
        if turn > WARM_UP and time.perf_counter() > deadline:
            break
        for engine, run in runs.items():
            time.sleep(PAUSE_S)
            started = time.perf_counter()
            run(batch)
            if turn >= WARM_UP:
                times[engine].append(1000 * (time.perf_counter() - started))
    return times
