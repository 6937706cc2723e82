"""Progress on stderr: a live bar on a terminal, or lines in a log file.

    with progress.bar("decoding images", total=1228) as bar:
        bar.advance(64)
        bar.describe("decoding images, 2 unreadable")

In a log file a piece of work has a line at its start, one at its end, and one every 15 s between them. This module
never writes to stdout, which is for results.
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

# Bars and lines share one console, so that a line is printed above a live bar.
console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def say(message: str) -> None:
    """Print one line on stderr: what happens, or a decision."""
    console.print(message)


class Bar:
    """The progress of one piece of work. `total` is None if the length is unknown."""

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
        elif time.monotonic() - self._logged > 15:  # a log file needs few lines
            self._logged = time.monotonic()
            share = f" {100 * done / self.total:.0f}%" if self.total else ""
            say(f"  … {self.description}{share}")

    def describe(self, description: str) -> None:
        self.description = description
        if self._live and self._task is not None:
            self._live.update(self._task, description=description)


@contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Bar]:
    """Show a bar for one piece of work and yield it. At the end, print the duration and whether the work was done."""
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
    end = "stopped after"
    try:
        yield current
        end = "done in"
    finally:
        if live:
            live.stop()
        say(f"{current.description}: {end} {time.monotonic() - started:.1f} s")
