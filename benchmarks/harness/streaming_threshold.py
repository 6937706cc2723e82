"""Reading arrays and reading shards of the same images, where memory holds all pixels of them, and where it does not.

measure(memory_mb=1500, shares=[0.25, 0.5, 1.0, 2.0])     # as root

Each reader is a process in a control group with so much memory, which starts with none of the pages in it. It reads an
epoch, which fills the memory, and then another one, which counts, or as much of that as fits into LONGEST_S.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.streaming_stand_in import SIDE, control_group, noise_version
from raycls import home, progress
from raycls.config import override
from raycls.data.packed import PackedDataset, Store
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError
from raycls.training.presets import preset

STORES: tuple[Store, ...] = ("packed", "encoded")
BATCH, THREADS = 64, 2
LONGEST_S = 60.0
MB = 1 << 20
SPAWN = multiprocessing.get_context("spawn")


def measure(memory_mb: int, shares: list[float]) -> list[dict[str, Any]]:
    """Return for each share, which is the pixels' bytes of the memory, the images/s of both kinds of version."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, home.elsewhere(Path(folder)):
        for number, share in enumerate(shares):
            row: dict[str, Any] = {"share": share, "images": int(share * memory_mb * MB) // (SIDE * SIDE * 3)}
            for store in STORES:
                with progress.bar(f"{row['images']:,} images, {store}"):
                    dataset = noise_version(f"{store}-{number}", {"train": row["images"], "val": 200}, store)
                    row[f"{store}_per_s"] = _read(dataset, memory_mb * MB)
            rows.append(row)
    return rows


def _read(dataset: PackedDataset, limit: int) -> float:
    _leave_memory(dataset.path)
    answers: Any = SPAWN.SimpleQueue()
    with control_group(limit) as group:
        reader = SPAWN.Process(target=_reader, args=(dataset.info.reference, group, answers))
        reader.start()
        reader.join()
        if reader.exitcode:
            raise BenchmarkError(f"the reader ended with {reader.exitcode}")
    found: float = answers.get()
    return found


def _leave_memory(folder: Path) -> None:
    """Let the kernel forget the pages of all files: those of another group would cost the reader nothing."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _reader(reference: str, group: Path, answers: Any) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    import torch

    from raycls.training.encoded_split import open_split
    from raycls.training.sampling import EpochOrder
    from raycls.training.workers import Workers

    torch.set_num_threads(THREADS)
    dataset = open_dataset(reference)
    train = open_split(dataset, "train", torch.device("cpu"))
    order = EpochOrder(override(preset("quick", dataset.info), [f"batch_size={BATCH}"]), train, Workers())
    for epoch in range(2):
        started, images = time.perf_counter(), 0
        for batch in train.ahead(order.batches(epoch)):
            images += len(batch.pixels)
            if (seconds := time.perf_counter() - started) > LONGEST_S:
                break
    answers.put(images / seconds)
