"""Training on a dataset of several times the memory, from a stand-in of S3, by two workers that have no disk for it.

measure(memory_mb=1500, times=3.0)     # as root

The workers are in a control group of their own; the stand-in is not. Its images are noise, which no format makes small,
and the network sees them at 32 pixels: reading and decoding is what takes the time.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.streaming_stand_in import DISTINCT, control_group, files, noise_version, peak
from raycls import home, progress
from raycls.data import sharing
from raycls.data.packed import PackedDataset, is_shard
from raycls.errors import BenchmarkError

VAL = 200
NETWORK_SIDE, BATCH = 32, 128
WORKERS = 2
MB = 1 << 20
SPAWN = multiprocessing.get_context("spawn")


def measure(memory_mb: int, times: float) -> list[dict[str, Any]]:
    """Return one row: the dataset, the peak of the workers' memory, the bytes they read, and how fast they were."""
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(control_group(memory_mb * MB))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(home.elsewhere(folder / "home"))
        os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        with progress.bar(f"making {times * memory_mb:,.0f} MB of images"):
            count = DISTINCT * int(times * memory_mb * MB) // sum(map(len, files()))
            dataset = noise_version("bucket", {"train": count, "val": VAL}, "encoded")
        sizes = {file: (dataset.path / file).stat().st_size for file in dataset.info.sha256 if is_shard(file)}
        sent = SPAWN.Value("q", 0)
        storage = stack.enter_context(_bucket(sent))
        os.environ["RAYCLS_STORAGE"] = storage
        stack.callback(os.environ.pop, "RAYCLS_STORAGE")
        sharing.push(dataset)
        os.environ["RAYCLS_HOME"] = str(folder / "workers")
        sharing.pull(dataset.info.name)
        shutil.rmtree(folder / "home")  # nobody reads the files here
        before = sent.value
        found = _train(dataset, group)
        read, size = sent.value - before, sum(sizes.values())
        return [
            {
                "memory_mb": memory_mb,
                "dataset_mb": round(size / MB),
                "images": sum(dataset.info.counts.values()),
                "times": size / (memory_mb * MB),
                "peak_mb": round(peak(group) / MB),
                "read_share": read / size,
                **found,
            }
        ]


@contextlib.contextmanager
def _bucket(sent: Any) -> Iterator[str]:
    """Run the stand-in, and yield a storage path in it. sent: counts the bytes of shards that it sends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = SPAWN.Process(target=_serve, args=(port, sent), daemon=True)
    server.start()
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > deadline:
                raise BenchmarkError("the stand-in of S3 did not start within 60 s")
            time.sleep(0.1)
        query = f"endpoint_override=127.0.0.1:{port}&scheme=http&allow_bucket_creation=true&region=us-east-1"
        yield f"s3://test:test@streams/raycls?{query}"
    finally:
        server.terminate()
        server.join()


def _serve(port: int, sent: Any) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would print a line for each request
    application = DomainDispatcherApplication(create_backend_app)

    def counting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        counts = environ["REQUEST_METHOD"] == "GET" and is_shard(environ["PATH_INFO"])
        for piece in application(environ, start_response):
            if counts:
                with sent.get_lock():
                    sent.value += len(piece)
            yield piece

    make_server("127.0.0.1", port, counting, threaded=True).serve_forever()


def _train(dataset: PackedDataset, group: Path) -> dict[str, float]:
    """Train one epoch in the group. Return the first worker's figures."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers: Any = SPAWN.SimpleQueue()
    workers = [
        SPAWN.Process(target=_work, args=(rank, dataset, group, port, answers)) for rank in range(WORKERS)
    ]
    with progress.bar("training from the bucket"):
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        raise BenchmarkError(f"a worker ended with {failed[0]}: -9 is the kernel, where memory is too short")
    found: dict[str, float] = answers.get()
    return found


def _work(rank: int, dataset: PackedDataset, group: Path, port: int, answers: Any) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    import torch
    import torch.distributed as dist

    from raycls.config import override
    from raycls.data.resized import at_size
    from raycls.data.versions import on_this_node
    from raycls.training import loop
    from raycls.training.presets import preset
    from raycls.training.workers import Workers

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    settings = ["epochs=1", f"batch_size={BATCH}", f"image_size={NETWORK_SIDE}"]
    config = override(preset("smoke", dataset.info), settings)
    here = at_size(on_this_node(dataset), NETWORK_SIDE)
    assert here.absent()
    started, first = time.perf_counter(), 0.0

    def on_step(done: int, total: int) -> None:
        nonlocal first
        first = first or time.perf_counter() - started

    def on_epoch(metrics: dict[str, float], snapshot: Any) -> None:
        if rank == 0:
            answers.put({"first_s": first, "per_s": metrics["images_per_s"]})

    loop.fit(config, here, on_epoch=on_epoch, on_step=on_step, workers=Workers(rank, WORKERS))
    dist.destroy_process_group()
