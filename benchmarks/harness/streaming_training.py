"""Training from shards beside training from arrays: the same pictures, the same network, in turns.

speed("photos", "photos-shards", network="resnet18", batch_size=32, steps=10, rounds=5)
accuracy("photos", "photos-shards", network=None, preset="quick", seeds=[0, 1, 2])
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from pathlib import Path

from raycls import progress
from raycls.config import Config, override
from raycls.data.manifest import read_rows
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import BenchmarkError
from raycls.training import loop, presets
from raycls.training.evaluation import evaluate


class _Enough(Exception):
    """All steps of a turn are done."""


def speed(
    packed: str, encoded: str, network: str, batch_size: int, steps: int, rounds: int
) -> list[dict[str, float]]:
    """Return for each round the images/s of both after the first step, and the seconds until the first batch."""
    datasets = _both(packed, encoded)
    most = datasets["packed"].info.counts["train"] // batch_size
    if steps + 1 > most:
        raise BenchmarkError(
            f"{packed} has {most} steps of {batch_size} images: lower --steps or --batch-size"
        )
    rows = []
    with progress.bar("training in turns", rounds * len(datasets)) as bar:
        for number in range(rounds):
            row: dict[str, float] = {}
            for kind in sorted(datasets, reverse=bool(number % 2)):
                found = _turn(datasets[kind], network, batch_size, steps)
                row |= {f"{kind}_{name}": value for name, value in found.items()}
                bar.advance()
            rows.append(row)
    return rows


def _turn(dataset: PackedDataset, network: str, batch_size: int, steps: int) -> dict[str, float]:
    settings = [f"batch_size={batch_size}", "epochs=1", "reduced_share=0"]
    config = override(presets.preset("quick", dataset.info, network), settings)
    training = loop.start(config, dataset)
    assert isinstance(training, loop.Training)
    started = time.perf_counter()
    batches = training.train.ahead(training.order.batches(0))
    for _ in itertools.islice(batches, 1):
        first = time.perf_counter() - started
    del batches
    times: list[float] = []

    def on_step(done: int, total: int) -> None:
        times.append(time.perf_counter())
        if done == steps + 1:
            raise _Enough

    with contextlib.suppress(_Enough):
        training.train_epoch(0, on_step)
    return {"per_s": steps * batch_size / (times[-1] - times[0]), "first_s": first}


def accuracy(
    packed: str, encoded: str, network: str | None, preset: str, seeds: list[int]
) -> list[dict[str, float]]:
    """Return for each seed the test accuracy of the best epoch, from arrays and from shards."""
    datasets, rows = _both(packed, encoded), []
    for seed in seeds:
        row: dict[str, float] = {"seed": seed}
        for kind, dataset in datasets.items():
            chosen = presets.preset(preset, dataset.info, network)
            row[kind] = _trained(override(chosen, [f"seed={seed}"]), dataset)
            progress.say(f"seed {seed}, {kind}: {row[kind]:.4f}")
        rows.append(row)
    return rows


def _trained(config: Config, dataset: PackedDataset) -> float:
    best = -1.0
    with tempfile.TemporaryDirectory() as folder:

        def on_epoch(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
            nonlocal best
            if metrics["val_accuracy"] >= best:
                best = metrics["val_accuracy"]
                snapshot.save(Path(folder))

        loop.fit(config, dataset, on_epoch=on_epoch)
        return evaluate(Predictor.load(Path(folder), engine="reference"), dataset, "test").accuracy


def _both(packed: str, encoded: str) -> dict[str, PackedDataset]:
    """Return both versions. Raises BenchmarkError unless they have the same images in the same splits."""
    found = {"packed": open_dataset(packed), "encoded": open_dataset(encoded)}
    for kind, dataset in found.items():
        if dataset.info.store != kind:
            raise BenchmarkError(
                f"{dataset.info.reference} is {dataset.info.store}: prepare it with --store {kind}"
            )
    rows = [read_rows(dataset).select(["sha256", "split"]) for dataset in found.values()]
    if rows[0] != rows[1] or len({dataset.info.image_size for dataset in found.values()}) > 1:
        raise BenchmarkError(
            f"{packed} and {encoded} differ: prepare both from the same folder, at the same size"
        )
    return found
