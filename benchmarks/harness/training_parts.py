"""The measurements of benchmarks/training.py: one function for each part of the results page.

    presets("cifar10", "fast", seeds=[0, 1, 2], peer=Path("benchmarks/peers/plain_cnn.py"))

Each function yields rows of plain numbers; training_page.py computes medians and spreads. Both sides of a comparison
run in turns. Times are those of the training loop to its last epoch, with whitening, augmentation and validation,
without the start of processes. Accuracies are those of the kept epoch.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raycls import cluster, progress, registry
from raycls.cluster.environment import ALLOCATOR
from raycls.config import Config, override
from raycls.data.subsets import Subset
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError
from raycls.models.card import load_card
from raycls.training.presets import preset
from raycls.training.recipes import configured
from raycls.training.trainer import train

Row = dict[str, Any]

# One epoch of `fast` at full image size over a part of the images: long enough to time, short enough to repeat.
TIMED = ["training.epochs=1", "training.reduced_share=0", "training.train_fraction=0.7"]

# Runs of `fast` with one setting removed or replaced: settings, environment, (workers, threads).
LEVERS: dict[str, tuple[list[str], dict[str, str], tuple[int, int]]] = {
    "fast unchanged": ([], ALLOCATOR, (2, 1)),
    "without the allocator's environment": ([], {}, (2, 1)),
    "one worker of two threads": ([], ALLOCATOR, (1, 2)),
    "float32": (["training.precision=fp32"], ALLOCATOR, (2, 1)),
    "all epochs at full image size": (["training.reduced_share=0"], ALLOCATOR, (2, 1)),
    "first layers frozen after 3/4": (["training.freeze_after=0.75"], ALLOCATOR, (2, 1)),
    "averaged weights, decay 0.95": (["optim.ema=0.95"], ALLOCATOR, (2, 1)),
    "widths of 32, 64, 144": (["network.widths=[32,64,144]"], ALLOCATOR, (2, 1)),
    "batches of 500": (["training.batch_size=500"], ALLOCATOR, (2, 1)),
    "AdamW at 0.003": (["optim.name=adamw", "optim.lr=0.003"], ALLOCATOR, (2, 1)),
}


def presets(
    dataset: str, name: str, seeds: list[int], peer: Path, settings: list[str], *, refit: bool = False
) -> Iterator[Row]:
    """For each seed, run the whole preset under Ray Train, with an epoch of the plain peer before it and after it.

    The row has the mean of the two epochs, because the machine's speed changes within minutes. refit: train on the
    splits train and val together, and keep the last epoch.
    """
    configs = {seed: _config(dataset, name, [*settings, f"training.seed={seed}"]) for seed in seeds}
    for seed, config in configs.items():
        before = _peer_epoch(peer, dataset, seed)
        row = under_ray(config, dataset, subset=Subset() if refit else None)
        after = _peer_epoch(peer, dataset, seed)
        yield {"seed": seed, **row} | {key: statistics.mean((before[key], after[key])) for key in before}


def ray(dataset: str, pairs: int, workers: int, threads: int) -> Iterator[Row]:
    """Run the whole of `quick` in bare processes and under Ray Train, in turns."""
    for _ in range(pairs):
        bare = without_ray(dataset, "quick", [], workers, threads)
        with_ray = under_ray(_config(dataset, "quick", []), dataset, cpus=workers * threads, workers=workers)
        yield {"bare_seconds": bare["train_seconds"], "ray_seconds": with_ray["train_seconds"]}


def workers(dataset: str, pairs: int) -> Iterator[Row]:
    """Measure images/s of one and of two Ray Train workers with one thread each, in turns."""
    for _ in range(pairs):
        row = {}
        for count in (1, 2):
            result = under_ray(_config(dataset, "fast", TIMED), dataset, cpus=count, workers=count)
            row[f"images_per_s_{count}"] = result["images_per_s"]
        yield row


def agreement(dataset: str, seeds: list[int]) -> Iterator[Row]:
    """Measure the test accuracy of `fast` with one worker (two threads) and two (one thread), same global batch."""
    for seed in seeds:
        row: Row = {"seed": seed}
        for count in (1, 2):
            settings = [f"training.seed={seed}"]
            result = without_ray(dataset, "fast", settings, count, 2 // count)
            row[f"test_accuracy_{count}"] = result["test_accuracy"]
        yield row


def memory(dataset: str) -> Iterator[Row]:
    """Measure the memory of one worker in a run of `fast`, bytes."""
    result = without_ray(dataset, "fast", [], workers=1, threads=2)
    yield {key: value for key, value in result.items() if key.startswith("peak_memory")}


def levers(dataset: str, seeds: list[int]) -> Iterator[Row]:
    """Run each of LEVERS for each seed."""
    for seed in seeds:
        for lever, (settings, environment, (count, threads)) in LEVERS.items():
            arguments = [*settings, f"training.seed={seed}"]
            result = without_ray(dataset, "fast", arguments, count, threads, environment)
            figures = {key: result[key] for key in ("train_seconds", "test_accuracy")}
            yield {"lever": lever, "seed": seed, **figures}


def networks(dataset: str, seeds: list[int], init: str | None) -> Iterator[Row]:
    """Run `fast` with each of raycls's own networks, and with the fastcnn from the model `init`, if one is given."""
    starts: list[tuple[str, str | None]] = [("mlp", None), ("cnn", None), ("fastcnn", None)]
    if init:
        starts.append(("fastcnn", init))
    for seed in seeds:
        for network, start in starts:
            card = load_card(registry.checkpoint(registry.resolve(start))) if start else None
            settings = [f"training.seed={seed}"]
            config = configured(open_dataset(dataset).info, network=network, settings=settings, init=card)
            row = under_ray(config, dataset, init=start)
            yield {"network": network, "init": start or "", "seed": seed, **row}


def _config(dataset: str, name: str, settings: list[str]) -> Config:
    return override(preset(name, open_dataset(dataset).info), settings)


def under_ray(
    config: Config,
    dataset: str,
    *,
    cpus: int | None = None,
    workers: int | None = None,
    init: str | None = None,
    subset: Subset | None = None,
) -> Row:
    """Train under Ray Train and return the metrics. With cpus, a new Ray with so many CPUs is started for the run."""
    import ray as core

    if cpus is not None:
        core.shutdown()
        cluster.connect(num_cpus=cpus)
    try:
        if cpus is not None and (cores := int(core.cluster_resources()["CPU"])) != cpus:
            raise BenchmarkError(
                f"a Ray with {cores} CPUs is running, but the measurement needs one with {cpus}: stop it with "
                "`raycls down` and unset RAY_ADDRESS"
            )
        result = train(dataset, config, workers=workers, register=False, init=init, subset=subset)
    finally:
        if cpus is not None:
            core.shutdown()
    names = ("images_per_s", "test_accuracy", "test_macro_accuracy", "val_accuracy")
    figures = {name: result.metrics[name] for name in names if name in result.metrics}
    return {"train_seconds": result.metrics["total_train_seconds"], **figures}


def without_ray(
    dataset: str,
    name: str,
    settings: list[str],
    workers: int,
    threads: int,
    environment: dict[str, str] = ALLOCATOR,
) -> Row:
    command = [
        sys.executable,
        str(Path(__file__).with_name("training_bare.py")),
        "--dataset",
        dataset,
        "--preset",
        name,
    ]
    command += ["--settings", json.dumps(settings), "--workers", str(workers), "--threads", str(threads)]
    with progress.bar(f"without Ray, {workers} × {threads} threads {' '.join(settings)}"):
        return _answer(command, environment)


def _peer_epoch(peer: Path, dataset: str, seed: int) -> Row:
    command = [sys.executable, str(peer), "--dataset", dataset, "--epochs", "1", "--seed", str(seed)]
    with progress.bar(f"the plain peer's epoch, seed {seed}"):
        answer = _answer(command, {})
    return {
        "peer_epoch_seconds": answer["epoch_seconds"][0],
        "peer_test_accuracy": answer["test_accuracy"][0],
    }


def _answer(command: list[str], environment: dict[str, str]) -> Row:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | environment
    )
    if done.returncode:
        raise BenchmarkError(f"{command[1]} failed with exit code {done.returncode}; the lines above say why")
    return json.loads(done.stdout.splitlines()[-1])
