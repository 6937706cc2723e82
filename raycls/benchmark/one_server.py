"""One server under every load of a plan: warm-up, closed loops, then open loops, in short interleaved repeats.

    points = measure("http://127.0.0.1:8000/predict", Path("images"), Plan(connections=(1, 8)))

It works with any server whose answers to /predict have a `class_name`. Batch sizes need raycls's GET /metrics beside
/predict. The CPU time of replicas and ingress needs their Ray cluster on this machine.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from raycls import progress
from raycls.benchmark.batch_counts import between, scrape
from raycls.benchmark.load import Load, LoadGenerator, Sample
from raycls.benchmark.results import Plan, Point
from raycls.benchmark.usage import Meter
from raycls.errors import BenchmarkError

AUTO_SHARES = (0.5, 0.8)  # of the closed-loop peak: a moderate rate, and one near saturation
WARMUP_SECONDS = 0.5


@dataclass(frozen=True)
class _Repeat:
    sample: Sample
    cores: dict[str, float]
    batches: tuple[float, float] | None


def measure(
    url: str,
    images: Path,
    plan: Plan,
    *,
    replicas: int | None = None,
    head: int | None = None,
    allow_remote: bool = False,
) -> list[Point]:
    """Return one point for each load of `plan`. Closed loops come first, because "auto" rates are shares of their peak.

    replicas is their number, if it is known. head is the process id of their Ray cluster; None counts the replicas of
    every Ray cluster on this machine.

    Raises UsageError for a URL or folder that cannot be used, BenchmarkError if no request gets status 200.
    """
    name = f"{replicas} replica{'s' if replicas != 1 else ''}" if replicas else url
    loads = len(plan.connections) + (len(AUTO_SHARES) if plan.rates == "auto" else len(plan.rates))
    each = plan.seconds + WARMUP_SECONDS
    with (
        LoadGenerator(url, images, allow_remote=allow_remote) as generator,
        progress.bar(f"measuring {name}", total=1 + loads * plan.repeats * each) as bar,
    ):
        warm = generator.measure(Load(connections=max(plan.connections), seconds=1, warmup_seconds=0))
        if not warm.answered:
            raise BenchmarkError(f"{url} answered no request with status 200; it answered: {warm.errors}")
        bar.advance(1)

        def repeated(loads: list[Load]) -> list[Point]:
            done: list[list[_Repeat]] = [[] for _ in loads]
            for _ in range(plan.repeats):
                for load, own in zip(loads, done, strict=True):
                    bar.describe(f"measuring {name}, {_name(load)}")
                    own.append(_repeat(generator, load, replicas, head))
                    bar.advance(each)
            return [_point(load, own, replicas) for load, own in zip(loads, done, strict=True)]

        closed = repeated([_load(plan, connections=count) for count in plan.connections])
        peak = max(point.requests_per_s for point in closed)
        rates = [peak * share for share in AUTO_SHARES] if plan.rates == "auto" else plan.rates
        opened = repeated([_load(plan, rate=rate) for rate in rates])
        bar.describe(f"measuring {name}")
        return closed + opened


def _load(plan: Plan, **kind: float) -> Load:
    return Load.model_validate({**kind, "seconds": plan.seconds, "warmup_seconds": WARMUP_SECONDS})


def _name(load: Load) -> str:
    return f"connections: {load.connections}" if load.connections else f"{load.rate:.0f} requests/s"


def _repeat(generator: LoadGenerator, load: Load, replicas: int | None, head: int | None) -> _Repeat:
    before = scrape(generator.url, replicas)
    meter = Meter(head)
    sample = generator.measure(load)
    cores = meter.cores()
    return _Repeat(sample, cores, between(before, scrape(generator.url, replicas)))


def _point(load: Load, repeats: list[_Repeat], replicas: int | None) -> Point:
    batches = [repeat.batches for repeat in repeats if repeat.batches]
    cores = {key: statistics.mean(repeat.cores[key] for repeat in repeats) for key in repeats[0].cores}
    cores["generator"] = statistics.mean(repeat.sample.generator_cores for repeat in repeats)
    return Point(
        replicas=replicas,
        connections=load.connections,
        rate=load.rate,
        samples=[repeat.sample for repeat in repeats],
        batch_mean=statistics.mean(mean for mean, _ in batches) if batches else None,
        batch_max=max(most for _, most in batches) if batches else None,
        cores=cores,
    )
