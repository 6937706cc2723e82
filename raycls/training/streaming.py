"""Batches of images that do not fit into an accelerator's memory: threads gather them and send them ahead.

for indices, images in streamed(images, batches, torch.device("cuda")): …

Each thread gathers one batch from the memory map into page-locked memory, from where the accelerator copies it without
the CPU, in a stream beside that of the computation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

THREADS = 2
AHEAD = 3  # batches that are gathered or wait while one is computed


def streamed(
    images: Tensor, batches: Iterable[Tensor], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each batch of indices (int64 B, on the CPU) as indices and images (uint8 B×…), both on the device.

    images: uint8 N×…, on the CPU. batches is read by the calling thread alone.
    """
    upload = _Upload(images, device)
    waiting: deque[Future[_Sent]] = deque()
    # No `with`: a caller that stops early, as at an error, does not wait for batches that nobody takes.
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="images")
    try:
        for indices in batches:
            waiting.append(threads.submit(upload, indices))
            if len(waiting) > AHEAD:
                yield upload.received(waiting.popleft().result())
        while waiting:
            yield upload.received(waiting.popleft().result())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


_Sent = tuple[Tensor, Tensor, torch.cuda.Event | None]


class _Upload:
    """Gathers batches and sends them to one device. A thread calls it; `received` is for the thread that computes."""

    def __init__(self, images: Tensor, device: torch.device):
        self._images, self._device = images, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, indices: Tensor) -> _Sent:
        shape = (len(indices), *self._images.shape[1:])
        # PyTorch keeps page-locked memory for the next batch, and does not give it away before a copy has ended.
        gathered = torch.empty(shape, dtype=self._images.dtype, pin_memory=self._stream is not None)
        torch.index_select(self._images, 0, indices, out=gathered)
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
