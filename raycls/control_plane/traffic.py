"""What the replicas answered in the last hour, minute by minute, and in the last seconds.

    hour = LastHour()
    task = asyncio.create_task(hour.run())
    hour.as_json()

It is in memory: after a restart of the control plane it begins anew, and says since when it knows.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raycls.control_plane import served
from raycls.control_plane.loop import forever
from raycls.metrics import bucket_quantile
from raycls.serving.replica.metrics import SECONDS

PERIOD_S = 5.0
MINUTE_S, MINUTES = 60.0, 60
NOW_S = 8.0  # what counts as now: the last two looks
SUMMED = ("requests", "failed", "refused", "confidences", "confidence_sum", "batches", "images")


@dataclass
class Traffic:
    """What was answered from `began` to `ended`, in seconds since 1970. latencies: by bucket of SECONDS."""

    began: float
    ended: float
    requests: int = 0
    failed: int = 0
    refused: int = 0
    confidences: int = 0
    confidence_sum: float = 0.0
    batches: int = 0
    images: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, counts: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
        """Add the counts of one replica, less those of its look before."""
        past = before or {}
        for name in SUMMED:
            setattr(self, name, getattr(self, name) + counts[name] - past.get(name, 0))
        earlier = past.get("latencies", [0] * len(self.latencies))
        self.latencies = [
            sum(each) for each in zip(self.latencies, counts["latencies"], (-n for n in earlier), strict=True)
        ]
        self.classes.update(counts["classes"])
        self.classes.subtract(past.get("classes", {}))

    def plus(self, other: Traffic) -> Traffic:
        """Return the sum of this and of what came after it."""
        total = Traffic(self.began, other.ended)
        for part in (self, other):
            total.add(vars(part), None)
        return total

    def as_json(self) -> dict[str, Any]:
        """Return figures that people read: rates in 1/s, latencies in ms, shares in 0..1; None where nothing came."""
        seconds = max(self.ended - self.began, 1e-3)
        p50, p99 = (bucket_quantile(SECONDS, self.latencies, share) for share in (0.5, 0.99))
        return {
            "began": self.began,
            "ended": self.ended,
            "requests": self.requests,
            "requests_per_s": self.requests / seconds,
            "failed": self.failed,
            "refused": self.refused,
            "p50_ms": None if p50 is None else 1000 * p50,
            "p99_ms": None if p99 is None else 1000 * p99,
            "confidence": self.confidence_sum / self.confidences if self.confidences else None,
            "images_per_batch": self.images / self.batches if self.batches else None,
        }


class LastHour:
    """The loop of one control plane, and what it knows. clock: seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self._clock = clock
        # Of each replica at its last look: when that was, and its counts.
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}
        self._minutes: deque[Traffic] = deque(maxlen=MINUTES)
        self._looks: deque[Traffic] = deque()
        self.since = self._last = clock()
        self.replicas = self.pending = 0

    async def run(self) -> None:
        """Run until cancelled."""
        await forever(PERIOD_S, self.step, "count the last hour")

    async def step(self) -> None:
        """Look once."""
        answers = await served.traffic()
        look = Traffic(self._last, self._clock())
        for answer in answers:
            _, before = self._known.get(answer["replica"], (0.0, None))
            # Nobody knows when the counts are from of a replica that is older than what this process knows.
            if before or answer["started"] >= self.since:
                look.add(answer["counts"], before)
            self._known[answer["replica"]] = (look.ended, answer["counts"])
        # One that does not answer in time is not forgotten: its counts would come twice.
        self._known = {
            name: kept for name, kept in self._known.items() if kept[0] > look.ended - MINUTES * MINUTE_S
        }
        self.replicas, self.pending = len(answers), sum(answer["pending"] for answer in answers)
        self._last = look.ended
        self._looks.append(look)
        while self._looks[0].ended < look.ended - NOW_S:
            self._looks.popleft()
        if self._minutes and self._minutes[-1].ended // MINUTE_S == look.ended // MINUTE_S:
            self._minutes[-1] = self._minutes[-1].plus(look)
        else:
            self._minutes.append(look)

    def as_json(self) -> dict[str, Any]:
        """Return the figures of now, of each minute, the oldest first, and of all of them with the classes."""
        oldest = self._clock() - MINUTES * MINUTE_S
        minutes = [minute for minute in self._minutes if minute.ended > oldest]
        hour, now = _sum(minutes), _sum(list(self._looks))
        return {
            "since": self.since,
            "replicas": self.replicas,
            "pending": self.pending,
            "now": now.as_json() if now else None,
            "hour": hour.as_json() if hour else None,
            "classes": dict((+hour.classes).most_common()) if hour else {},
            "minutes": [minute.as_json() for minute in minutes],
        }


def _sum(parts: list[Traffic]) -> Traffic | None:
    if not parts:
        return None
    total, *rest = parts
    for part in rest:
        total = total.plus(part)
    return total
