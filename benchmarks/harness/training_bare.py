"""Run the training loop in bare processes without Ray, as the baseline for the cost of Ray.

    python -m harness.training_bare --dataset digits --workers 2 --threads 1 --settings '["epochs=1"]'

The last line of stdout is one JSON document: the last epoch's metrics, test_accuracy of the best epoch, and the first
worker's memory in bytes (total: its peak; private: pages of this process alone; file: pages of the memory-mapped
dataset and of libraries, which the kernel can drop).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.training import loop
from raycls.training.evaluation import evaluate
from raycls.training.presets import preset
from raycls.training.workers import Workers


def run(config: Config, dataset: PackedDataset, workers: int, threads: int) -> dict[str, float]:
    """Train with `workers` processes on this machine and return the first one's metrics.

    Raises the first worker's exception.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers: Any = context.SimpleQueue()
    spec = (config, dataset, workers, threads, port, answers)
    others = [context.Process(target=_work, args=(rank, *spec)) for rank in range(1, workers)]
    for process in others:
        process.start()
    try:
        _work(0, *spec)
        return answers.get()
    finally:
        for process in others:
            process.join()


def _work(
    rank: int, config: Config, dataset: PackedDataset, workers: int, threads: int, port: int, answers: Any
) -> None:
    torch.set_num_threads(threads)
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    chosen_by = config.training.chosen_by
    best = last = {chosen_by: -1.0}
    with tempfile.TemporaryDirectory() as folder:

        def on_epoch(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
            nonlocal best, last
            last = metrics
            if rank == 0 and metrics[chosen_by] >= best[chosen_by]:
                best = metrics
                snapshot.save(Path(folder))

        loop.fit(config, dataset, on_epoch=on_epoch, workers=Workers(rank, workers))
        if rank == 0:
            memory = {f"peak_memory_{kind}": value for kind, value in _memory().items()}
            accuracy = evaluate(Predictor.load(Path(folder)), dataset, "test").accuracy
            answers.put({**last, **memory, "test_accuracy": accuracy})
    if workers > 1:
        dist.destroy_process_group()


def _memory() -> dict[str, int]:
    """Return the peak of the resident memory, and its private and file pages at this moment, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = {
        kind: int(status[key].split()[0]) * 1024
        for kind, key in (("private", "RssAnon"), ("file", "RssFile"))
    }
    return {"total": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **now}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10", help="a prepared dataset (default: cifar10)")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--network")
    parser.add_argument("--settings", type=json.loads, default=[], help="JSON list of KEY=VALUE")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch in each worker")
    options = parser.parse_args()
    dataset = open_dataset(options.dataset)
    config = override(preset(options.preset, dataset.info, options.network), options.settings)
    print(json.dumps(run(config, dataset, options.workers, options.threads)))


if __name__ == "__main__":
    main()
