"""Which engine is the fastest on this machine of those that agree with the reference.

    choice = choose(checkpoint_directory, images)     # choice.engine, and what each one took

Knows checkpoint directories and images; who remembers the choice is the registry.
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
from raycls.engines.predictor import softmax
from raycls.errors import CheckpointError, EngineError

THREADS = 1  # with which engines are timed: `threads` of serve_config.yaml
ONE, MANY = 1, 32  # images: a lone request's batch, and one under load
ROUNDS, WARM_UP = 20, 3  # timed passes of each engine, in turns
MOST_SECONDS = 3.0  # of all of them: large networks get fewer
PAUSE_S = 0.004  # before each: in a row of them without end, each would take half as long as in a replica
# A fit engine's agreement with the reference; bfloat16 in a sound one is at 0.99 and 0.003.
SAME_CLASS, MEAN_DIFFERENCE = 0.97, 0.02


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one engine takes, median milliseconds, and how far its answers are from the reference's."""

    engine: Engine
    one_ms: float  # a batch of ONE image
    many_ms: float  # a batch of MANY images
    same_class: float  # share of the images that get the reference's class
    mean_difference: float  # of the largest probability, absolute

    @property
    def agrees(self) -> bool:
        return self.same_class >= SAME_CLASS and self.mean_difference <= MEAN_DIFFERENCE

    @property
    def cost(self) -> float:
        """Both batches count alike: their geometric mean, squared."""
        return self.one_ms * self.many_ms


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The fastest engine of those that agree with the reference, which is one of them."""

    engine: Engine
    timings: tuple[Timing, ...]

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(timing) for timing in self.timings]

    def __str__(self) -> str:
        each = ", ".join(f"{t.engine} {t.one_ms:.2f} and {t.many_ms:.1f} ms" for t in self.timings)
        return f"{self.engine} is the fastest engine here: for {ONE} image and {MANY}, {each}"


def choose(directory: Path, images: np.ndarray, device: Device | None = None) -> Choice:
    """Time every engine on this machine, in turns, with THREADS; `images` (uint8 N×S×S×3) are real ones.

    An engine that cannot run the network, or does not agree with the reference, is said and left out. Raises
    CheckpointError where the answers are not finite.
    """
    device = device or engines.best_device()
    before = torch.get_num_threads()
    try:
        runs = able(lambda engine: engines.load(engine, directory, device, THREADS), device)
        answers = {engine: _probabilities(run, images) for engine, run in runs.items()}
        one, many = (
            {engine: statistics.median(times) for engine, times in _time(runs, images, count).items()}
            for count in (ONE, MANY)
        )
    finally:
        torch.set_num_threads(before)
    exact = answers["reference"]
    if not np.isfinite(exact).all():
        raise CheckpointError(f"the answers of {directory} are not finite")
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
                f"engine {timing.engine} is not used: {timing.same_class:.1%} of {len(images)} images get the class "
                f"of the reference, whose confidence is {timing.mean_difference:.3f} away on average"
            )
    fit = [timing for timing in timings if timing.agrees]
    return Choice(engine=min(fit, key=lambda timing: timing.cost).engine, timings=timings)


def able(load: Callable[[Engine], Run], device: Device) -> dict[Engine, Run]:
    """The engines of the device that `load` does not raise EngineError for; of the others it is said why not."""
    runs: dict[Engine, Run] = {}
    for engine in engines.candidates(device):
        try:
            runs[engine] = load(engine)
        except EngineError as error:
            progress.say(f"engine {engine} is not used: {error}")
    return runs


def _probabilities(run: Run, images: np.ndarray) -> np.ndarray:
    parts = [run(images[start : start + MANY]) for start in range(0, len(images), MANY)]
    return softmax(np.concatenate(parts))


def _time(runs: dict[Engine, Run], images: np.ndarray, count: int) -> dict[Engine, list[float]]:
    """Milliseconds of each engine's passes over `count` images."""
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
