"""What has been scored: for the progress of a call, and for its result.

    with Tally("scoring pets/3", before, ledger) as tally:
        tally.add(part, Counts(2048, 3, 0), began)

The number of pictures is known when the listing has ended, which is while the scoring runs.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

from raycls import progress
from raycls.scoring.ledger import Ledger, Listing
from raycls.scoring.rows import Counts

PATIENCE_SECONDS = 60  # without a part; then a message says why


class Tally:
    """Counts the parts of this call. before: what earlier calls have written."""

    def __init__(self, title: str, before: Counts, ledger: Ledger):
        self._title, self._ledger = title, ledger
        self.all, self._before = before, before.pictures
        self.parts: set[int] = set()
        self.began: float | None = None  # when the first part was begun, seconds since 1970
        self._last = 0.0  # when the last one was told
        self._listing: Listing | None = None
        self._stack = ExitStack()
        self._ended, self._heard = threading.Event(), time.monotonic()

    def __enter__(self) -> Tally:
        self._bar = self._stack.enter_context(progress.bar(self._title))
        threading.Thread(target=self._be_patient, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    @property
    def pictures_per_s(self) -> float:
        """Return the pictures of this call for each second from the begin of its first part to the end of the last."""
        return self.scored / max(1e-9, self._last - self.began) if self.began else 0.0

    @property
    def scored(self) -> int:
        """Return the pictures that this call has scored."""
        return self.all.pictures - self._before

    def add(self, part: int, found: Counts, began: float) -> None:
        """Count a part. A part that is told twice counts once."""
        self._heard, self._last = time.monotonic(), time.time()
        self.began = min(began, self.began or began)
        if part not in self.parts:
            self.parts.add(part)
            self.all = self.all.plus(found)
        self._listing = self._listing or self._ledger.listing()
        self._bar.describe(self.description())
        self._bar.update(self.all.pictures)

    def description(self) -> str:
        """Return the line for a person: how many of how many, how fast, what is left, and failures so far."""
        done, rate = self.all.pictures, self.pictures_per_s
        text = f"{self._title}: {done:,} pictures, more are being listed"
        if self._listing:
            left = self._listing.pictures - done
            wait = f", about {_duration(left / rate)} left" if left and rate else ""
            text = f"{self._title}: {done:,} of {self._listing.pictures:,} pictures{wait}"
        return f"{text}, {rate:,.0f}/s, {self.all.errors:,} failed"

    def _be_patient(self) -> None:
        while not self._ended.wait(5):
            if time.monotonic() - self._heard > PATIENCE_SECONDS:
                self._heard = time.monotonic()
                progress.say(
                    f"nothing was scored for {PATIENCE_SECONDS} s: other work may hold all CPUs of the cluster"
                )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
