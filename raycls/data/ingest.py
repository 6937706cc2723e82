"""Decoding of many image files into one array, in parallel on the Ray cluster.

    reasons = decode_all(files, np.empty((len(files), 64, 64, 3), np.uint8))   # {7: "the image is empty: …"}

The driver reads the files and sends their bytes, so the nodes need not share its disk. This module knows neither
classes nor splits.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raycls import progress
from raycls.data.transforms import decode, to_square
from raycls.errors import ClusterError, ImageError

MAX_FILE_BYTES = 200 * 2**20  # a larger file is probably a video
CHUNK_FILES, CHUNK_BYTES = 64, 16 * 2**20  # limits of one task: about a second of work, and little memory
PATIENCE_SECONDS = 30  # without a finished task; then a message says why


def decode_all(files: list[Path], images: np.ndarray) -> dict[int, str]:
    """Fill images (uint8 N×S×S×3) with one image for each file. Return {position: reason} of the unreadable files.

    At most two tasks for each CPU of the cluster are pending. Raises ClusterError if Ray cannot run them.
    """
    from raycls import cluster

    cluster.connect()
    import ray

    task = ray.remote(decode_chunk)
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: dict[ray.ObjectRef, list[int]] = {}
    unreadable: dict[int, str] = {}

    def collect() -> None:
        while not (ready := ray.wait(list(pending), timeout=PATIENCE_SECONDS)[0]):
            progress.say(
                f"no decoding task has finished for {PATIENCE_SECONDS} s: other work may hold all CPUs of the cluster"
            )
        positions = pending.pop(ready[0])
        images[positions], failed = ray.get(ready[0])
        unreadable.update({positions[index]: reason for index, reason in failed.items()})
        bar.advance(len(positions))
        if unreadable:
            bar.describe(f"decoding {len(files)} images, {len(unreadable)} unreadable")

    with progress.bar(f"decoding {len(files)} images", len(files)) as bar:
        try:
            for positions, chunk in _chunks(files, unreadable):
                pending[task.remote(chunk, images.shape[1])] = positions
                if len(pending) >= limit:
                    collect()
            while pending:
                collect()
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"decoding on the Ray cluster failed: {str(error).splitlines()[-1]}"
            ) from error
    return unreadable


def decode_chunk(files: list[bytes], size: int) -> tuple[np.ndarray, dict[int, str]]:
    """Return uint8 N×size×size×3, with zeros for an unreadable file, and {position: reason} of the unreadable files."""
    images = np.zeros((len(files), size, size, 3), dtype=np.uint8)
    unreadable = {}
    for index, data in enumerate(files):
        try:
            images[index] = to_square(decode(data), size)
        except ImageError as error:
            unreadable[index] = str(error)
    return images, unreadable


def _chunks(files: list[Path], unreadable: dict[int, str]) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield the positions and contents of one task's files, in order. Add files that cannot be read to `unreadable`."""
    positions: list[int] = []
    contents: list[bytes] = []
    for position, file in enumerate(files):
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")  # to read a FIFO could wait for ever
            if status.st_size > MAX_FILE_BYTES:
                raise OSError(f"larger than {MAX_FILE_BYTES // 2**20} MB")
            contents.append(file.read_bytes())
        except OSError as error:
            unreadable[position] = error.strerror or str(error)
            continue
        positions.append(position)
        if len(positions) == CHUNK_FILES or sum(map(len, contents)) > CHUNK_BYTES:
            yield positions, contents
            positions, contents = [], []
    if positions:
        yield positions, contents
