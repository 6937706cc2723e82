"""Batches of images that are not in the device's memory: threads gather or decode them, and send them ahead.

for indices, images in streamed(source_of(images), batches, torch.device("cuda")): …

Each thread gathers one batch. For an accelerator it is in page-locked memory, from where the accelerator copies it
without the CPU, in a stream beside that of the computation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

THREADS = 2


class Source(NamedTuple):
    """Where images come from. shape: of one image. gather(indices, out): writes those at int64 B into uint8 B×…."""

    shape: tuple[int, ...]
    gather: Callable[[Tensor, Tensor], object]


def source_of(images: Tensor) -> Source:
    """Return the source of images in memory or in a memory map, uint8 N×…."""
    return Source(
        tuple(images.shape[1:]), lambda indices, out: torch.index_select(images, 0, indices, out=out)
    )


def streamed(
    source: Source, batches: Iterable[Tensor], device: torch.device, threads: int = THREADS
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each batch of indices (int64 B, on the CPU) as indices and images (uint8 B×…), both on the device.

    One batch more than there are threads is gathered or waits. batches is read by the calling thread alone.
    """
    upload, ahead = _Upload(source, device), threads + 1
    waiting: deque[Future[_Sent]] = deque()
    # No `with`: a caller that stops early, as at an error, does not wait for batches that nobody takes.
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        for indices in batches:
            waiting.append(pool.submit(upload, indices))
            if len(waiting) > ahead:
                yield upload.received(waiting.popleft().result())
        while waiting:
            yield upload.received(waiting.popleft().result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_Sent = tuple[Tensor, Tensor, torch.cuda.Event | None]


class _Upload:
    """Gathers batches and sends them to one device. A thread calls it; `received` is for the thread that computes."""

    def __init__(self, source: Source, device: torch.device):
        self._source, self._device = source, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, indices: Tensor) -> _Sent:
        shape = (len(indices), *self._source.shape)
        # PyTorch keeps page-locked memory for the next batch, and does not give it away before a copy has ended.
        gathered = torch.empty(shape, dtype=torch.uint8, pin_memory=self._stream is not None)
        self._source.gather(indices, gathered)
        if self._stream is None:
            return indices, gathered.to(self._device), None
        with torch.cuda.stream(self._stream):
            sent = [each.to(self._device, non_blocking=True) for each in (indices.pin_memory(), gathered)]
            return sent[0], sent[1], self._stream.record_event()

    def received(self, sent: _Sent) -> tuple[Tensor, Tensor]:
        """Return what was sent, for use in the current stream, which waits for the copies. The host does not."""
        indices, images, arrival = sent
        if arrival is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(arrival)
            for tensor in (indices, images):
                tensor.record_stream(current)
        return indices, images
