"""A forward pass over more images than fit into memory: it is computed in parts.

    run = InParts(load("torch", directory, "cuda"))
    logits, embeddings = run(images)                # as `run` itself, in parts of half as many images where it must be

    if out_of_memory(error): …

How much memory an image takes is known only by trying: it depends on the network, the engine, and what else is running.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raycls import progress

# What PyTorch's allocator for CPUs and C++'s own say, in a RuntimeError.
_MESSAGES = ("can't allocate memory", "bad_alloc", "Cannot allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Return whether this error means that memory, of the machine or of an accelerator, has run out."""
    named = type(error).__name__ == "OutOfMemoryError"  # PyTorch's, which not every engine imports
    return named or isinstance(error, MemoryError) or any(text in str(error) for text in _MESSAGES)


class InParts:
    """Calls `run` on as many images at once as memory holds. Raises its error where one is too many.

    What was too much is tried again, twice as many with each call, as other work may have ended.
    """

    def __init__(self, run: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]):
        self._run, self._most = run, 0  # 0: nothing was too much yet

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        while True:
            size = min(self._most or len(images), len(images))
            if found := self._tried(images, max(1, size)):
                if self._most:
                    self._most = 0 if size == len(images) else 2 * size
                return found
            self._most = size // 2
            progress.say(f"memory does not hold {size} images at once: {self._most} at a time")

    def _tried(self, images: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what `run` makes of parts of this size, or None where memory does not hold two images or more."""
        if size >= len(images):
            parts = [images]
        else:
            parts = [images[start : start + size] for start in range(0, len(images), size)]
        try:
            made = [self._run(part) for part in parts]
        except (RuntimeError, MemoryError) as error:
            if size < 2 or not out_of_memory(error):
                raise
            return None  # outside of this block, where the error no longer holds the arrays of its frames
        if len(made) == 1:
            return made[0]
        logits, embeddings = zip(*made, strict=True)
        return np.concatenate(logits), np.concatenate(embeddings)
