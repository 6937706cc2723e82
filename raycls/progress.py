"""Progress on stderr: a live bar on a terminal, one line at the start and one at the end in a log file.

    with progress.bar("decoding images", total=1228) as bar:
        bar.advance(64)
        bar.describe("decoding images, 2 unreadable")

Results belong on stdout and never pass through here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# One console for bars and lines, so that a line said while a bar is live lands above it.
console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def say(message: str) -> None:
    """One line on stderr: what is being done, or what was decided."""
    console.print(message)


class Bar:
    """What `bar` yields. `total` None means that the length is unknown."""

    def __init__(self, description: str, total: float | None, live: Progress | None):
        self.description, self.total, self.done, self._live = description, total, 0.0, live
        self._task = live.add_task(description, total=total) if live else None
        self._logged = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self.update(self.done + amount)

    def update(self, done: float) -> None:
        self.done = done
        if self._live and self._task is not None:
            self._live.update(self._task, completed=done)
        elif time.monotonic() - self._logged > 15:  # a log needs a sign of life, not every step
            self._logged = time.monotonic()
            share = f" {100 * done / self.total:.0f}%" if self.total else ""
            say(f"  … {self.description}{share}")

    def describe(self, description: str) -> None:
        self.description = description
        if self._live and self._task is not None:
            self._live.update(self._task, description=description)


@contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Bar]:
    """A bar for one piece of work; it closes with the time taken, and says so when the work was broken off."""
    started = time.monotonic()
    live = None
    if sys.stderr.isatty():
        live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%" if total else ""),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        live.start()
    else:
        say(f"{description} …")
    current = Bar(description, total, live)
    end = "broken off"
    try:
        yield current
        end = "done"
    finally:
        if live:
            live.stop()
        say(f"{current.description}: {end} in {time.monotonic() - started:.1f} s")
