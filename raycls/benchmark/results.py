"""A serving benchmark as data: the plan, the measurements, and the conclusions.

    results.peak(2).requests_per_s, results.speedup(results.peak(2)), results.conclusions()

It does not measure and does not draw.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from raycls.benchmark.load import MAX_OUTSTANDING, Sample


class Plan(BaseModel):
    """What to measure. A run takes about replicas × (connections + rates) × repeats × seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    replicas: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 2), min_length=1, description="replica counts; speed-ups are relative to the first"
    )
    connections: tuple[Annotated[int, Field(ge=1, le=MAX_OUTSTANDING)], ...] = Field(
        default=(1, 8, 32), min_length=1, description="closed loops, by number of connections"
    )
    rates: tuple[Annotated[float, Field(gt=0)], ...] | Literal["auto"] = Field(
        default="auto",
        description="open loops, requests/s; auto: 50% and 80% of each count's own closed-loop peak",
    )
    seconds: float = Field(default=3.0, gt=0, le=600, description="measured part of one repeat")
    repeats: int = Field(default=3, ge=1, le=1000, description="repeats of each load")
    simulate_forward_ms: float = Field(
        default=0,
        ge=0,
        le=10_000,
        description="simulate a slow network: each image sleeps this long, which needs no CPU",
    )

    @field_validator("replicas", "connections")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) != len(values):
            raise ValueError("each number must be given once")
        return values


class Spread(NamedTuple):
    """A value over the repeats of a point."""

    median: float
    low: float
    high: float


class Point(BaseModel):
    """One load against one replica count, in several repeats. `replicas` is None for a server given by URL."""

    replicas: int | None
    connections: int | None = Field(description="of a closed loop; None for an open loop")
    rate: float | None = Field(description="requests/s of an open loop; None for a closed loop")
    samples: list[Sample]
    batch_mean: float | None = Field(description="mean images per forward pass; None if it is not known")
    batch_max: float | None = Field(
        description="upper bound of the largest batch: the bound of a histogram bucket, so 32 can mean 17"
    )
    cores: dict[str, float] = Field(
        description="cores in use on this machine: generator, replicas, ingress, and busy (all programs)"
    )

    def spread(self, field: str) -> Spread | None:
        """Return the spread of a numeric field of Sample, or None if no repeat has a value."""
        values = [value for sample in self.samples if (value := getattr(sample, field)) is not None]
        return Spread(statistics.median(values), min(values), max(values)) if values else None

    @property
    def requests_per_s(self) -> float:
        return statistics.median(sample.requests_per_s for sample in self.samples)

    @property
    def errors(self) -> Counter[str]:
        return sum((Counter(sample.errors) for sample in self.samples), Counter())

    @property
    def other_cores(self) -> float:
        """The cores used by Ray's own processes and by other programs."""
        return self.cores["busy"] - sum(value for name, value in self.cores.items() if name != "busy")


class Results(BaseModel):
    """The measurements of a run, and the machine, versions and settings that they belong to."""

    date: str = Field(description="end of the run, UTC")
    hardware: dict[str, str]
    versions: dict[str, str]
    plan: Plan
    config: dict[str, Any] = Field(
        description="settings of the application, its deployment and the ingress; {} for a server given by URL"
    )
    model: str = Field(description="NAME/VERSION, or the URL of the server")
    test_accuracy: float | None = Field(description="the registered accuracy on the whole test split, 0..1")
    memory_mib: dict[int, float] = Field(description="memory of one replica (USS), by replica count")
    points: list[Point]
    bound_per_s: float | None = Field(
        default=None,
        description="images/s of bare processes, one per core, that decode and classify; None: not measured",
    )

    @property
    def counts(self) -> list[int | None]:
        return list(dict.fromkeys(point.replicas for point in self.points))

    def closed(self, replicas: int | None) -> list[Point]:
        return [p for p in self.points if p.replicas == replicas and p.connections]

    def open(self, replicas: int | None) -> list[Point]:
        return sorted(
            (p for p in self.points if p.replicas == replicas and p.rate), key=lambda p: p.rate or 0
        )

    def peak(self, replicas: int | None) -> Point:
        """Return the closed-loop point of a replica count with the most requests/s."""
        return max(self.closed(replicas), key=lambda point: point.requests_per_s)

    def speedup(self, point: Point) -> float | None:
        """Return requests/s divided by the first count's at as many connections; None for an open loop."""
        same = [p for p in self.closed(self.counts[0]) if p.connections == point.connections]
        return point.requests_per_s / same[0].requests_per_s if same and same[0].requests_per_s else None

    def efficiency(self, point: Point) -> float | None:
        """Return the speed-up per replica, or None as `speedup` does. 1.0: each replica brings its full share."""
        speedup, first = self.speedup(point), self.counts[0]
        return speedup * first / point.replicas if speedup and first and point.replicas else None

    @property
    def accuracy_over_http(self) -> float | None:
        """The share of right answers (0..1) to images whose true class is known; None without such images."""
        samples = [sample for point in self.points for sample in point.samples]
        labelled = sum(sample.labelled for sample in samples)
        return sum(sample.correct for sample in samples) / labelled if labelled else None

    def conclusions(self) -> list[str]:
        """Return a sentence for each count after the first: the speed-up, and the reason if it is not the full one."""
        return list(_conclusions(self))

    def as_json(self) -> dict[str, Any]:
        """Return plain values under the names that `--json` prints. A point's values are medians over its repeats."""
        fields = ("date", "model", "test_accuracy", "memory_mib", "hardware", "versions", "config")
        return {
            "benchmark": "serving",
            **{field: getattr(self, field) for field in fields},
            "settings": self.plan.model_dump(mode="json"),
            "accuracy_over_http": self.accuracy_over_http,
            "bound_per_s": self.bound_per_s,
            "peak_requests_per_s": {str(count): self.peak(count).requests_per_s for count in self.counts},
            "peak_speedup": {str(c): _ratio(self.peak(c), self.peak(self.counts[0])) for c in self.counts},
            "points": [self._point_json(point) for point in self.points],
            "conclusions": self.conclusions(),
        }

    def _point_json(self, point: Point) -> dict[str, Any]:
        document: dict[str, Any] = {
            "replicas": point.replicas,
            "loop": "closed" if point.connections else "open",
        }
        document |= {"connections": point.connections, "rate": point.rate}
        for field in ("requests_per_s", "p50_ms", "p95_ms", "p99_ms", "mean_ms", "max_ms", "late_p99_ms"):
            spread = point.spread(field)
            document[field] = spread.median if spread else None
            document[f"{field}_range"] = [spread.low, spread.high] if spread else None
        return document | {
            "speedup": self.speedup(point),
            "efficiency": self.efficiency(point),
            "n": sum(sample.answered for sample in point.samples),
            "repeats": len(point.samples),
            "errors": dict(point.errors),
            "batch_size_mean": point.batch_mean,
            "batch_size_max": point.batch_max,
            "cores": point.cores,
        }


def _ratio(point: Point, base: Point) -> float | None:
    return point.requests_per_s / base.requests_per_s if base.requests_per_s else None


def _conclusions(results: Results) -> Iterator[str]:
    first = results.counts[0]
    base = results.peak(first)
    cores = float(results.hardware["cores"])
    for count in results.counts[1:]:
        assert count and first
        peak = results.peak(count)
        gain = _ratio(peak, base) or 0.0
        says = f"{count} replicas reach {gain:.2f} × the peak requests/s of {first}"
        if gain >= 0.9 * count / first:
            yield f"{says}: each replica brings its full share."
            continue
        reasons = []
        if peak.other_cores > 0.25 * cores:
            reasons.append(
                f"other programs use {peak.other_cores:.2f} of the {cores:.0f} cores, so the result is not "
                "reliable: measure again on a quiet machine"
            )
        elif cores - peak.cores["busy"] < 0.1 * cores:
            parts = {name: base.cores[name] for name in ("replicas", "ingress", "generator")}
            parts["others"] = base.other_cores
            shares = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
            reasons.append(
                f"all {cores:.0f} cores are busy; {first} replica{'s' if first > 1 else ''} alone "
                f"used {base.cores['busy']:.2f} ({shares}) and left {cores - base.cores['busy']:.2f} free"
            )
        elif peak.connections == 1:
            reasons.append("one connection sends one request at a time, so only one replica works")
        else:
            reasons.append(
                f"only {peak.cores['busy']:.2f} of {cores:.0f} cores are busy: the requests wait in the ingress, "
                "or there are too few connections"
            )
        if base.batch_mean and peak.batch_mean and peak.batch_mean < 0.8 * base.batch_mean:
            reasons.append(
                f"the mean batch shrinks from {base.batch_mean:.1f} to {peak.batch_mean:.1f} images, and an image "
                "in a small batch costs more CPU time"
            )
        start = "More replicas do not help here: " if gain < 1.05 else ""
        yield f"{start}{says}, not {count / first:g} ×: {'; '.join(reasons)}."
