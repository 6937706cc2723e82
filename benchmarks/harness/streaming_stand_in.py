"""What a benchmark of large datasets makes for itself: a version of noise, and a control group with little memory.

    with control_group(1500 << 20) as group:
        dataset = noise_version("noise", {"train": 10_000, "val": 200}, store="encoded")
        ...                                     # a worker writes its number into group / "cgroup.procs"
        print(peak(group))

The images are noise of 224 pixels a side, which no format makes small.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from raycls.data.codec import decode, encode
from raycls.data.manifest import SCHEMA, left_out_table
from raycls.data.packed import SPLITS, PackedDataset, Store
from raycls.data.writer import VersionWriter, reserved, write_version
from raycls.errors import BenchmarkError

SIDE, DISTINCT, CLASSES = 224, 200, 10


def files() -> list[bytes]:
    """Return DISTINCT encoded images."""
    return [encode(pixels, lossy=True) for pixels in _pixels()]


def _pixels() -> np.ndarray:
    """Return the images before they are encoded, uint8 DISTINCT×SIDE×SIDE×3."""
    random = np.random.default_rng(0)
    squares = random.integers(0, 256, (DISTINCT, SIDE // 4, SIDE // 4, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    noise = random.integers(-40, 41, squares.shape)
    return np.clip(squares + noise, 0, 255).astype(np.uint8)


def noise_version(name: str, given: dict[str, int], store: Store) -> PackedDataset:
    """Write a version with so many images of each split; each count is rounded down to a multiple of DISTINCT."""
    counts = {split: given.get(split, 0) // DISTINCT * DISTINCT for split in SPLITS}
    labels = {split: np.arange(count) % CLASSES for split, count in counts.items()}
    names = tuple(map(str, range(CLASSES)))
    rows = [
        {"source": f"{split}/{row}", "label": names[row % CLASSES], "split": split}
        for split, count in counts.items()
        for row in range(count)
    ]
    with reserved(name), write_version(name, 1) as writer:
        (_write_shards if store == "encoded" else _write_arrays)(writer, labels)
        return writer.publish(
            classes=names,
            labels=labels,
            mirrorable=True,
            source="noise",
            licence="none",
            rows=pa.Table.from_pylist(rows, SCHEMA),
            left_out=left_out_table([]),
        )


def _write_shards(writer: VersionWriter, labels: dict[str, np.ndarray]) -> None:
    encoded, pixels = files(), _pixels()
    for split, of_split in labels.items():
        with writer.encoder(split, of_split, SIDE) as encoder:
            encoder.histogram.add(pixels)
            for _ in range(len(of_split) // DISTINCT):
                encoder.add_files(encoded)


def _write_arrays(writer: VersionWriter, labels: dict[str, np.ndarray]) -> None:
    pixels = np.stack([decode(data, SIDE) for data in files()])
    for split, of_split in labels.items():
        array = writer.array(split, len(of_split), SIDE)
        for start in range(0, len(of_split), DISTINCT):
            array[start : start + DISTINCT] = pixels


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """Yield a new control group with this much memory, bytes. Raises BenchmarkError where none can be made."""
    kinds = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}  # v1, v2
    for above, file in kinds.items():
        group = Path(above) / f"raycls-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / file).exists():
                (group / file).write_text(str(limit))
                break
            group.rmdir()
    else:
        raise BenchmarkError(
            "no control group with a memory limit can be made: run as root, with cgroup v1 or v2"
        )
    try:
        yield group
    finally:
        group.rmdir()


def peak(group: Path) -> int:
    """Return the most memory that the group had, bytes, with the pages of files."""
    names = [group / name for name in ("memory.max_usage_in_bytes", "memory.peak")]
    return next(int(file.read_text()) for file in names if file.exists())
