"""What is measured: one function per part of the page, each an interleaved comparison within one call.

    presets("cifar10", "fast", seeds=[0, 1, 2], peer=Path("benchmarks/peers/plain_cnn.py"))

Every part gives rows of plain numbers as they are measured; medians and spreads are the page's. Times are the training
loop's own to its last epoch (whitening, augmentation and validation included), not the start of processes; accuracies
are those of the epoch that is kept.
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

from raycls import cluster, progress
from raycls.cluster.environment import ALLOCATOR
from raycls.config import Config, override, preset
from raycls.data.packed import open_dataset
from raycls.errors import BenchmarkError
from raycls.training.trainer import train

Row = dict[str, Any]

# One whole-size epoch of `fast` over part of the images: long enough to time, short enough to repeat.
TIMED = ["training.epochs=1", "training.reduced_share=0", "training.train_fraction=0.7"]

# What each setting of `fast` is worth: the run without it, or with another in its place.
LEVERS: dict[str, tuple[list[str], dict[str, str], tuple[int, int]]] = {
    "fast as it is": ([], ALLOCATOR, (2, 1)),
    "without the allocator's environment": ([], {}, (2, 1)),
    "one worker of two threads": ([], ALLOCATOR, (1, 2)),
    "float32": (["training.precision=fp32"], ALLOCATOR, (2, 1)),
    "all epochs at whole size": (["training.reduced_share=0"], ALLOCATOR, (2, 1)),
    "first layers rest after 3/4": (["training.freeze_after=0.75"], ALLOCATOR, (2, 1)),
    "averaged weights, decay 0.95": (["optim.ema=0.95"], ALLOCATOR, (2, 1)),
    "widths of 32, 64, 144": (["network.widths=[32,64,144]"], ALLOCATOR, (2, 1)),
    "batches of 500": (["training.batch_size=500"], ALLOCATOR, (2, 1)),
    "AdamW at 0.003": (["optim.name=adamw", "optim.lr=0.003"], ALLOCATOR, (2, 1)),
}


def presets(dataset: str, name: str, seeds: list[int], peer: Path, settings: list[str]) -> Iterator[Row]:
    """For each seed a whole run of the preset under Ray Train, between two epochs of the plain peer: their mean counts.

    A run of minutes may meet another pace of the machine than an epoch before it did.
    """
    for seed in seeds:
        before = _peer_epoch(peer, dataset, seed)
        row = under_ray(_config(dataset, name, [*settings, f"training.seed={seed}"]), dataset)
        after = _peer_epoch(peer, dataset, seed)
        yield {"seed": seed, **row} | {key: statistics.mean((before[key], after[key])) for key in before}


def ray(dataset: str, pairs: int, workers: int, threads: int) -> Iterator[Row]:
    """The whole of `quick` in bare processes and under Ray Train, in turns."""
    for _ in range(pairs):
        bare = without_ray(dataset, "quick", [], workers, threads)
        with_ray = under_ray(_config(dataset, "quick", []), dataset, cpus=workers * threads, workers=workers)
        yield {"bare_seconds": bare["train_seconds"], "ray_seconds": with_ray["train_seconds"]}


def workers(dataset: str, pairs: int) -> Iterator[Row]:
    """Images/s of one and of two Ray Train workers of one thread each, in turns."""
    for _ in range(pairs):
        row = {}
        for count in (1, 2):
            result = under_ray(_config(dataset, "fast", TIMED), dataset, cpus=count, workers=count)
            row[f"images_per_s_{count}"] = result["images_per_s"]
        yield row


def agreement(dataset: str, seeds: list[int]) -> Iterator[Row]:
    """Test accuracy of the whole `fast` run by one worker (two threads) and by two (one thread), same global batch."""
    for seed in seeds:
        row: Row = {"seed": seed}
        for count in (1, 2):
            settings = [f"training.seed={seed}"]
            result = without_ray(dataset, "fast", settings, count, 2 // count)
            row[f"test_accuracy_{count}"] = result["test_accuracy"]
        yield row


def memory(dataset: str) -> Iterator[Row]:
    """Peak memory of one worker, bytes, in a run of `fast`."""
    result = without_ray(dataset, "fast", [], workers=1, threads=2)
    yield {key: value for key, value in result.items() if key.startswith("peak_memory")}


def levers(dataset: str, seeds: list[int]) -> Iterator[Row]:
    """Every one of LEVERS for each seed, in turns."""
    for seed in seeds:
        for lever, (settings, environment, (count, threads)) in LEVERS.items():
            arguments = [*settings, f"training.seed={seed}"]
            result = without_ray(dataset, "fast", arguments, count, threads, environment)
            figures = {key: result[key] for key in ("train_seconds", "test_accuracy")}
            yield {"lever": lever, "seed": seed, **figures}


def networks(dataset: str, seeds: list[int], init: str | None) -> Iterator[Row]:
    """`fast` with each of raycls's own networks; and the fastcnn from the model `init`, where one is given."""
    starts: list[tuple[str, str | None]] = [("mlp", None), ("cnn", None), ("fastcnn", None)]
    if init:
        starts.append(("fastcnn", init))
    for seed in seeds:
        for network, start in starts:
            config = _config(dataset, "fast", [f"training.seed={seed}"], network)
            row = under_ray(config, dataset, init=start)
            yield {"network": network, "init": start or "", "seed": seed, **row}


def _config(dataset: str, name: str, settings: list[str], network: str | None = None) -> Config:
    return override(preset(name, open_dataset(dataset).manifest, network), settings)


def under_ray(
    config: Config,
    dataset: str,
    *,
    cpus: int | None = None,
    workers: int | None = None,
    init: str | None = None,
) -> Row:
    """A run under Ray Train, on a Ray of that many CPUs of its own where cpus is given."""
    import ray as core

    if cpus is not None:
        core.shutdown()
        cluster.connect(num_cpus=cpus)
    try:
        if cpus is not None and (cores := int(core.cluster_resources()["CPU"])) != cpus:
            raise BenchmarkError(
                f"a Ray of {cores} CPUs runs already, where one of {cpus} is to be measured: stop it first "
                "(`raycls down`), and unset RAY_ADDRESS"
            )
        result = train(dataset, config, workers=workers, register=False, init=init)
    finally:
        if cpus is not None:
            core.shutdown()
    names = ("images_per_s", "test_accuracy", "test_macro_accuracy", "val_accuracy")
    figures = {name: result.metrics[name] for name in names}
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
        raise BenchmarkError(f"{command[1]} failed with exit code {done.returncode}; its reason is above")
    return json.loads(done.stdout.splitlines()[-1])
