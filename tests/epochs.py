"""Finds the epochs that a training run has saved, and calls a function when a certain epoch is saved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from raycls import home

AtEpoch = Callable[[int, Callable[[], None]], None]


def saved_epochs(name: str | None = None) -> set[int]:
    """Return the epochs for which any attempt has begun a checkpoint, of the run `name` or of all runs."""
    storage = Path(home.storage())
    return {int(p.name.removeprefix("epoch-")) for p in storage.glob(f"{name or '*'}/attempt-*/epoch-*")}


class EpochWatch:
    """Calls a function in a new thread as soon as the checkpoint of an epoch appears."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def at_epoch(self, epoch: int, call: Callable[[], None]) -> None:
        def watch() -> None:
            while not self._over.is_set():
                if max(saved_epochs(), default=0) >= epoch:
                    call()
                    return
                time.sleep(0.01)

        self._threads.append(threading.Thread(target=watch, daemon=True))
        self._threads[-1].start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)
