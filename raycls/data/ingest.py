"""The decoding of a source's images, in parallel on the Ray cluster.

    decode_all(listing, parts, resize="crop")

The tasks read the files too. Files of this machine are read on this machine; what a URI names is read on all nodes.
What is decoded goes to `parts`, which also knows what is decoded already. This module knows neither classes nor splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa

from raycls import machine, progress
from raycls.data.codec import encode
from raycls.data.decode import decode_with_facts
from raycls.data.files import shown
from raycls.data.listing import Listing, Where
from raycls.data.packed import Store
from raycls.data.parts import SCHEMA, Chunk, Parts, key
from raycls.data.readers import SEQUENTIAL, Data, container_of, is_local, name_of, read_all, size_of
from raycls.data.similarity import LEAST_CONTRAST, perceptual_hashes
from raycls.data.transforms import Resize, to_square
from raycls.errors import ClusterError, ImageError, NoMemoryForImageError, NotAnImageError

TASK_FILES, TASK_BYTES = 512, 64 << 20  # limits of one task: at most about a second of work
CHUNK_FILES, CHUNK_BYTES = 128, 64 << 20  # limits of what a task holds in memory at a time
PATIENCE_SECONDS = 30  # without a finished task; then a message says why
# A file with such a name that is no image is told as unreadable; another one is taken for a note beside the images.
IMAGE_SUFFIXES = {
    "", ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".heic", ".heif",
    ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".svg", ".psd", ".dcm", ".raw", ".cr2",
    ".nef", ".arw", ".dng",
}  # fmt: skip


def decode_all(listing: Listing, parts: Parts, resize: Resize) -> None:
    """Decode every image of the listing that `parts` does not have, and add it there.

    At most two tasks for each CPU of the cluster are pending. Raises ClusterError if Ray cannot run them.
    """
    wheres = [where for where in listing.wheres if not parts.finished(where)]
    if done := len(listing) - len(wheres):
        progress.say(
            f"{done:,} of {len(listing):,} images were decoded before the last preparation was interrupted"
        )
    if not wheres:
        return
    from raycls import cluster

    cluster.connect()
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    here: dict[str, Any] = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    if is_local(wheres[0]) and not _cpus(node):  # a head on which nobody else shall work
        here["num_cpus"] = 0
        limit = machine.cores()
    task = ray.remote(decode_batch)
    pending: list[Any] = []
    unreadable = 0

    def collect() -> None:
        nonlocal unreadable
        ready: list[Any]
        while not (ready := ray.wait(pending, timeout=PATIENCE_SECONDS)[0]):
            progress.say(
                f"no decoding task has finished for {PATIENCE_SECONDS} s: other work may hold all CPUs of the cluster"
            )
        try:
            chunk = ray.get(next(ready[0]))
        except StopIteration:
            pending.remove(ready[0])
            return
        pending.append(pending.pop(pending.index(ready[0])))  # the next one is another task's turn
        parts.add(chunk)
        bar.advance(len(chunk.rows))
        unreadable += chunk.rows["kind"].to_pylist().count("unreadable")
        if unreadable:
            bar.describe(f"decoding {len(wheres):,} images, {unreadable} unreadable")

    with progress.bar(f"decoding {len(wheres):,} images", len(wheres)) as bar:
        try:
            for batch in _batches(wheres):
                options = here if is_local(batch[0]) else {}
                streaming = task.options(num_returns="streaming", **options)
                pending.append(streaming.remote(batch, parts.size, resize, parts.store))
                while len(pending) >= limit:
                    collect()
            while pending:
                collect()
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"decoding on the Ray cluster failed: {shown(str(error).splitlines()[-1])}"
            ) from error
        finally:
            parts.flush()


def _cpus(node: str) -> float:
    """Return how many CPUs Ray has for tasks on a node."""
    import ray

    (found,) = [each["Resources"] for each in ray.nodes() if each["NodeID"] == node]
    return float(found.get("CPU", 0))


def decode_here(listing: Listing, parts: Parts, resize: Resize) -> None:
    """Do the work of `decode_all` in this process, without Ray: for a few images."""
    wheres = [where for where in listing.wheres if not parts.finished(where)]
    with progress.bar(f"decoding {len(wheres):,} images", len(wheres)) as bar:
        try:
            for batch in _batches(wheres):
                for chunk in decode_batch(batch, parts.size, resize, parts.store):
                    parts.add(chunk)
                    bar.advance(len(chunk.rows))
        finally:
            parts.flush()


def decode_batch(wheres: list[Where], size: int, resize: Resize, store: Store) -> Iterator[Chunk]:
    """Read and decode some images, and yield them in chunks of at most CHUNK_FILES.

    Images that cannot be read have a reason in their row, and no pixels. store: of the version that they are for.
    """
    waiting: list[tuple[Where, Data]] = []
    held = 0
    most = max(1, min(CHUNK_FILES, CHUNK_BYTES // (size**2 * 3)))
    for where, data in read_all(wheres):
        waiting.append((where, data))
        held += len(data) if isinstance(data, bytes) else 0
        if len(waiting) >= most or held > CHUNK_BYTES:
            yield _decoded(waiting, size, resize, store)
            waiting, held = [], 0
    if waiting:
        yield _decoded(waiting, size, resize, store)


def _decoded(encoded: list[tuple[Where, Data]], size: int, resize: Resize, store: Store) -> Chunk:
    rows: list[dict[str, Any]] = []
    empty = dict.fromkeys(("sha256", "mode", "noticed", "kind", "reason"), "")
    images = np.empty((len(encoded), size, size, 3), dtype=np.uint8)
    count = 0
    for where, data in encoded:
        rows.append({**empty, "where": key(where), "row": -1, "width": 0, "height": 0, "phash": 0})
        try:
            if isinstance(data, OSError):
                raise data
            rows[-1]["sha256"] = hashlib.sha256(data).hexdigest()
            decoded = decode_with_facts(data, side=size)
            images[count] = to_square(decoded.image, size, resize)
        except NoMemoryForImageError as error:  # nothing is known against it
            raise NoMemoryForImageError(f"{shown(key(where))}: {error}") from None
        except (OSError, ImageError) as error:
            rows[-1] |= {
                "kind": _kind(where, error),
                "reason": shown(getattr(error, "strerror", None) or str(error)),  # it may quote a URI
            }
            continue
        rows[-1] |= {"width": decoded.width, "height": decoded.height, "mode": decoded.mode, "row": count}
        count += 1
    images = images[:count]
    hashes = iter(zip(perceptual_hashes(images), _blank(images), strict=True))
    for row in rows:
        if row["row"] >= 0:
            phash, blank = next(hashes)
            row |= {"phash": int(phash), "noticed": "blank" if blank else ""}
    table = pa.Table.from_pylist(rows, SCHEMA)
    if store == "packed":
        return Chunk(table, images)
    return Chunk(table, pa.array([encode(pixels, lossy=False) for pixels in images], pa.binary()))


def _kind(where: Where, error: Exception) -> str:
    """Return `ignored` for what is no image by its name and by its content, else `unreadable`."""
    suffix = PurePath(name_of(where)).suffix.lower()
    return "ignored" if isinstance(error, NotAnImageError) and suffix not in IMAGE_SUFFIXES else "unreadable"


def _blank(images: np.ndarray) -> np.ndarray:
    """Return which images show one colour: bool N."""
    count, side = len(images), images.shape[1]
    # First over the lines, whose bytes lie in sequence, which numpy does faster.
    lines = images.reshape(count, side, side * 3)
    highest, lowest = (each.reshape(count, side, 3) for each in (lines.max(1), lines.min(1)))
    return (highest.max(1) - lowest.min(1) <= LEAST_CONTRAST).all(1)


def _batches(wheres: list[Where]) -> Iterator[list[Where]]:
    """Yield what one task reads, in order. What can only be read from its start is read by one task."""
    batch: list[Where] = []
    size = 0
    for where in wheres:
        other = bool(batch) and (
            container_of(where) != container_of(batch[0])
            if where[0] in SEQUENTIAL
            else batch[0][0] in SEQUENTIAL
        )
        if other or (
            batch and where[0] not in SEQUENTIAL and (len(batch) == TASK_FILES or size > TASK_BYTES)
        ):
            yield batch
            batch, size = [], 0
        batch.append(where)
        size += size_of(where)
    if batch:
        yield batch
