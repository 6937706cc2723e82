"""The epochs that a training run has saved, and something to do when it has saved a certain one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from raycls import home

AtEpoch = Callable[[int, Callable[[], None]], None]


def saved_epochs(name: str | None = None) -> set[int]:
    """The epochs whose checkpoints any attempt has begun to write, of one run or of any."""
    storage = Path(home.storage())
    return {int(p.name.removeprefix("epoch-")) for p in storage.glob(f"{name or '*'}/attempt-*/epoch-*")}


class EpochWatch:
    """Calls something from a thread of its own as soon as an epoch's checkpoint appears."""

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
