"""The choice of the fastest engine on this machine, among those that are as accurate as the reference.

    choice = choose(checkpoint_directory, match(card, dataset, "val"), most_lost=0.2)
    choice.engine, choice.timings

An engine is allowed if its accuracy on all images of the split is at most `most_lost` points below the reference's, and
its confidences are the reference's on average. The second is needed beside the first: the temperature of the
reference, thresholds and drift hold for another engine only then. This module knows checkpoint directories and images.
The registry stores the choice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycls import progress
from raycls.config import Engine
from raycls.engines import build as engines
from raycls.engines.build import Device, Run
from raycls.engines.examples import Examples
from raycls.engines.predictor import Predictor
from raycls.errors import CheckpointError, EngineError

THREADS = 1  # CPU threads of a timed pass, like the default of `threads` in serve_config.yaml
ONE, MANY = 1, 32  # batch sizes, images: a single request, and a server under load
ROUNDS, WARM_UP = 20, 3  # timed and untimed passes of each engine
MOST_SECONDS = 3.0  # limit for the timed passes of all engines: large networks get fewer passes
PAUSE_S = 0.004  # before each pass: passes without a pause are faster than those of a replica
# Limit for the mean difference of the confidence. A sound bfloat16 engine reaches about 0.003, int8 about 0.01.
MEAN_DIFFERENCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of one engine. allowed: whether it may serve the version."""

    engine: Engine
    one_ms: float  # median time of a batch of ONE image
    many_ms: float  # median time of a batch of MANY images
    accuracy: float  # on the whole split
    mean_difference: float  # from the reference's confidence (the largest probability), mean absolute
    allowed: bool
    split: str = "val"  # on which accuracy and difference were measured

    @property
    def cost(self) -> float:
        """Return the product of both times, so that a batch of ONE and a batch of MANY count equally."""
        return self.one_ms * self.many_ms


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The fastest engine that is allowed, and the timings of all engines.

    The reference itself is one of the candidates, so there is always a choice.
    """

    engine: Engine
    timings: tuple[Timing, ...]

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(timing) for timing in self.timings]

    def __str__(self) -> str:
        each = ", ".join(f"{t.engine} {t.one_ms:.2f} and {t.many_ms:.1f} ms" for t in self.timings)
        return f"{self.engine} is the fastest engine here (time for {ONE} image and for {MANY}: {each})"


def choose(
    directory: Path,
    examples: Examples,
    most_lost: float,
    device: Device | None = None,
    names: Iterable[Engine] | None = None,
) -> Choice:
    """Measure every engine on this machine and return the fastest that is allowed.

    examples: of the whole split `val`. most_lost: points of accuracy that an engine may lose against the reference.
    names: the engines, with `reference`; default: all of the device. They are timed in turns, so that a change in the
    machine's speed affects all of them. An engine that cannot run the network, or is not allowed, is reported on stderr
    and not chosen. Raises CheckpointError if the reference's answers are not finite.
    """
    device = device or engines.best_device()
    before = torch.get_num_threads()
    try:
        with progress.bar("timing the engines"):
            runs = able(
                lambda engine: engines.load(engine, directory, device, THREADS),
                names or engines.running(device),
            )
            images = examples.pixels(slice(0, MANY))
            one, many = (
                {engine: statistics.median(times) for engine, times in _time(runs, images, count).items()}
                for count in (ONE, MANY)
            )
        answers = {engine: _answered(directory, engine, examples, device) for engine in runs}
    finally:
        torch.set_num_threads(before)
    exact = answers["reference"][1]
    if not np.isfinite(exact).all():
        raise CheckpointError(f"the network in {directory} gives answers that are not finite: train it again")
    right = {engine: int(is_right.sum()) for engine, (is_right, _) in answers.items()}
    timings = []
    for engine, (_, confidence) in answers.items():
        difference = float(np.abs(confidence - exact).mean())
        lost = 100 * (right["reference"] - right[engine]) / len(examples)
        allowed = lost <= most_lost and difference <= MEAN_DIFFERENCE
        if not allowed:
            progress.say(
                f"engine {engine} is not used: on {len(examples):,} images it loses {lost:.2f} points of accuracy, of "
                f"which {most_lost:g} are allowed, and its confidence differs by {difference:.3f} on average, of which "
                f"{MEAN_DIFFERENCE:g} is allowed"
            )
        timings.append(
            Timing(
                engine=engine,
                one_ms=one[engine],
                many_ms=many[engine],
                accuracy=right[engine] / len(examples),
                mean_difference=difference,
                allowed=allowed,
                split=examples.split,
            )
        )
    fit = [timing for timing in timings if timing.allowed]
    return Choice(engine=min(fit, key=lambda timing: timing.cost).engine, timings=tuple(timings))


def able(load: Callable[[Engine], Run], names: Iterable[Engine]) -> dict[Engine, Run]:
    """Return those of the engines that can run the network. Report the others and the reason on stderr.

    load: returns an engine as a function, or raises EngineError if the engine cannot run the network.
    """
    runs: dict[Engine, Run] = {}
    for engine in names:
        try:
            runs[engine] = load(engine)
        except EngineError as error:
            progress.say(f"engine {engine} is not used: {error}")
    return runs


def _answered(
    directory: Path, engine: Engine, examples: Examples, device: Device
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each answer of an engine is right (bool N) and its confidence (float32 N), by all cores.

    An answer is right where the most probable of the classes that the dataset knows is the label.
    """
    predictor = Predictor.load(directory, device=device, engine=engine)
    answers, confidences = [], []
    with progress.bar(f"measuring {engine}", total=len(examples)) as bar:
        for batch in examples.batches():
            found = predictor.probabilities(batch)
            answers.append(found[:, examples.columns].argmax(1))
            confidences.append(found.max(1))
            bar.advance(len(batch))
    return np.concatenate(answers) == examples.labels, np.concatenate(confidences)


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
