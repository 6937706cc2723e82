"""Reading and decoding shards by raycls's reader and by Ray Data's streaming_split, with two consumers each.

measure("photos-shards", batch_size=64, rounds=3)

Both read the same files on one machine, mix images in a window, and give uint8 batches. Nothing is trained.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import ray
import torch

from raycls import cluster, progress
from raycls.config import override
from raycls.data.codec import decode
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError
from raycls.training.encoded_split import WINDOW, open_split
from raycls.training.presets import preset
from raycls.training.sampling import EpochOrder
from raycls.training.workers import Workers

CONSUMERS = 2


def measure(encoded: str, batch_size: int, rounds: int) -> list[dict[str, float]]:
    """Return for each round the seconds until the first batch (the slower consumer), and images/s of the epoch."""
    dataset = open_dataset(encoded)
    if dataset.info.store != "encoded":
        raise BenchmarkError(f"{dataset.info.reference} is packed: prepare it with --store encoded")
    cluster.connect()
    rows = []
    with progress.bar("reading in turns", 2 * rounds) as bar:
        for number in range(rounds):
            row: dict[str, float] = {}
            for kind in ("raycls", "ray") if number % 2 else ("ray", "raycls"):
                found = _raycls(dataset, batch_size) if kind == "raycls" else _ray(dataset, batch_size)
                row |= {f"{kind}_{name}": value for name, value in found.items()}
                bar.advance()
            rows.append(row)
    return rows


def _timed(batches: Iterable[int]) -> tuple[float, float, int]:
    """Return the seconds until the first batch and until the last one, and the number of images."""
    started = time.perf_counter()
    first, images = 0.0, 0
    for count in batches:
        first = first or time.perf_counter() - started
        images += count
    return first, time.perf_counter() - started, images


def _together(found: list[tuple[float, float, int]]) -> dict[str, float]:
    return {
        "first_s": max(first for first, _, _ in found),
        "per_s": sum(images for _, _, images in found) / max(seconds for _, seconds, _ in found),
    }


def _raycls(dataset: PackedDataset, batch_size: int) -> dict[str, float]:
    tasks = [_read.remote(dataset, batch_size, rank) for rank in range(CONSUMERS)]
    return _together(ray.get(tasks))


@ray.remote(num_cpus=1)
def _read(dataset: PackedDataset, batch_size: int, rank: int) -> tuple[float, float, int]:
    torch.set_num_threads(1)
    train = open_split(dataset, "train", torch.device("cpu"))
    config = override(preset("quick", dataset.info), [f"batch_size={CONSUMERS * batch_size}"])
    batches = EpochOrder(config, train, Workers(rank, CONSUMERS)).batches(0)
    return _timed(len(batch.indices) for batch in train.ahead(batches))


def _ray(dataset: PackedDataset, batch_size: int) -> dict[str, float]:
    side = dataset.info.image_size

    def decoded(batch: dict[str, Any]) -> dict[str, Any]:
        return {"image": np.stack([decode(data, side) for data in batch["image"]])}

    files = sorted(str(path) for path in (dataset.path / "train").glob("shard-*.parquet"))
    mixed = WINDOW * dataset.info.shards["train"][0]
    streams = (
        ray.data.read_parquet(files, columns=["image"], shuffle="files")
        .map_batches(decoded, batch_size=batch_size)
        .streaming_split(CONSUMERS, equal=True)
    )
    return _together(ray.get([_consume.remote(stream, batch_size, mixed) for stream in streams]))


@ray.remote(num_cpus=0)
def _consume(stream: Any, batch_size: int, mixed: int) -> tuple[float, float, int]:
    options = {"batch_size": batch_size, "local_shuffle_buffer_size": mixed, "local_shuffle_seed": 0}
    return _timed(len(batch["image"]) for batch in stream.iter_batches(**options))
