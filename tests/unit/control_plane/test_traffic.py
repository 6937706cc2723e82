"""The last hour: what replicas count becomes rates by the minute, whatever starts, restarts or does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raycls.control_plane import served, traffic
from raycls.control_plane.traffic import LastHour
from raycls.serving.replica.metrics import SECONDS


class Replicas:
    """What replicas answer, and the time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answers: dict[str, dict[str, Any]] = {}
        self.silent: set[str] = set()
        self.started: dict[str, float] = {}

    def answered(self, replica: str, requests: int, *, failed: int = 0, bucket: int = 3) -> None:
        self.started.setdefault(replica, self.now)
        counts = self.answers.setdefault(
            replica,
            {
                **dict.fromkeys(traffic.SUMMED, 0),
                "latencies": [0] * (len(SECONDS) + 1),
                "classes": {"cat": 0},
            },
        )
        counts["requests"] += requests
        counts["failed"] += failed
        counts["latencies"] = list(counts["latencies"])
        counts["latencies"][bucket] += requests - failed
        counts["classes"] = {"cat": counts["classes"]["cat"] + requests - failed}

    async def traffic(self) -> list[dict[str, Any]]:
        return [
            {
                "replica": replica,
                "started": self.started[replica],
                "pending": 1,
                "counts": dict(counts),
            }
            for replica, counts in self.answers.items()
            if replica not in self.silent
        ]


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> Replicas:
    found = Replicas()
    monkeypatch.setattr(served, "traffic", found.traffic)
    return found


def _look(hour: LastHour, replicas: Replicas, seconds: float = 5.0) -> dict[str, Any]:
    replicas.now += seconds
    asyncio.run(hour.step())
    return hour.as_json()


def test_rates_and_latencies_are_those_of_the_last_seconds(replicas: Replicas) -> None:
    replicas.answered("a", 7000)  # before anybody looked
    replicas.now += 1
    hour = LastHour(lambda: replicas.now)
    assert _look(hour, replicas)["now"]["requests"] == 0
    replicas.answered("a", 50, failed=5)
    replicas.answered("b", 50)  # began since the last look
    found = _look(hour, replicas)
    assert (found["replicas"], found["pending"]) == (2, 2)
    assert found["now"]["requests_per_s"] == pytest.approx(10.0)
    assert found["now"]["failed"] == 5
    assert 1000 * SECONDS[2] < found["now"]["p50_ms"] < 1000 * SECONDS[3]
    assert found["classes"] == {"cat": 95}


def test_after_a_long_gap_it_goes_on(replicas: Replicas) -> None:
    hour = LastHour(lambda: replicas.now)
    replicas.answered("a", 1)
    _look(hour, replicas)
    replicas.answered("a", 600)
    assert _look(hour, replicas, seconds=600)["now"]["requests_per_s"] == pytest.approx(1.0)
    replicas.answered("a", 5)
    assert _look(hour, replicas)["hour"]["requests"] == 606


def test_a_replica_that_is_silent_once_is_not_counted_twice(replicas: Replicas) -> None:
    hour = LastHour(lambda: replicas.now)
    replicas.answered("a", 0)
    _look(hour, replicas)
    replicas.answered("a", 10)
    assert _look(hour, replicas)["hour"]["requests"] == 10
    replicas.silent.add("a")
    _look(hour, replicas)
    replicas.silent.clear()
    replicas.answered("a", 1)
    assert _look(hour, replicas)["hour"]["requests"] == 11


def test_an_hour_has_sixty_minutes_and_what_is_older_is_gone(replicas: Replicas) -> None:
    hour = LastHour(lambda: replicas.now)
    replicas.answered("a", 0)
    _look(hour, replicas)
    for _ in range(2 * 60 * 12):
        replicas.answered("a", 5)
        found = _look(hour, replicas)
    assert len(found["minutes"]) == 60
    assert all(minute["requests_per_s"] == pytest.approx(1.0) for minute in found["minutes"])
    assert 3500 < found["hour"]["requests"] <= 3600
    replicas.now += 7200
    later = hour.as_json()
    assert (later["minutes"], later["hour"]) == ([], None)
