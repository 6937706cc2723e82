"""Count the requests that fail under a steady load while something happens to the server.

    python benchmarks/resilience.py update                 # raycls promote and rollback in turns, 20,000 requests
    python benchmarks/resilience.py broken                 # raycls promote of versions that must not be served
    python benchmarks/resilience.py replica                # SIGKILL of a replica every 5 s for a minute
    python benchmarks/resilience.py hang                   # a replica stops answering, health checks included
    python benchmarks/resilience.py controller             # SIGKILL of Serve's controller
    python benchmarks/resilience.py overload               # three times the peak load for a minute
    python benchmarks/resilience.py memory                 # memory over 500,000 requests

The model (default: the latest champion) is served by two replicas on its own cluster, from a temporary RAYCLS_HOME, so
that your models and clusters are not touched. The results go to OUTPUT/resilience/PART.json (default:
benchmarks/results), and the page OUTPUT/resilience.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from harness import h2load, results_page
from harness.broken_versions import BROKEN, cut_short
from harness.resilience_page import HEAD, SECTIONS
from harness.results_page import Row
from harness.served_copy import LEAD_S, Server, stage

from raycls import command, home, progress, registry
from raycls.benchmark import usage
from raycls.benchmark.images import read_images
from raycls.benchmark.load import MAX_OUTSTANDING, Load, Sample
from raycls.errors import BenchmarkError, RefusedError, UsageError
from raycls.registry import gate
from raycls.registry.policy import PromotionPolicy
from raycls.serving.control import rollout

HERE = Path(__file__).parent
SERVE_CONFIG = HERE.parent / "serve_config.yaml"
REPLICAS = 2
UPDATE_REQUESTS, MEMORY_REQUESTS = 20_000, 500_000
RATES = 10, 500  # at a higher rate, UPDATE_REQUESTS are sent before a few updates are finished
KILLS, BETWEEN_KILLS_S = 12, 5.0
HANG_S = 60.0  # long enough for failed health checks and a new replica
OVERLOAD, OVERLOAD_S = 3, 60.0
BROKEN_S, LATE_S = 20.0, 60.0  # length of the load: for a version refused at once, and for one rolled back
PEAKS = [Load(connections=connections, seconds=10) for connections in (32, 100)]
COPY = "a copy of the champion"  # why it is promoted without a comparison
LOOKS = 11  # memory measurements; caches fill before the first


def row(name: str, load: str, samples: Iterable[Sample], seen: str) -> Row:
    samples = list(samples)
    return {
        "disturbance": name,
        "load": load,
        "answered": sum(sample.answered for sample in samples),
        "errors": dict(sum((Counter(sample.errors) for sample in samples), Counter())),
        "p99_ms": max((sample.p99_ms for sample in samples if sample.p99_ms is not None), default=None),
        "max_ms": max((sample.max_ms for sample in samples if sample.max_ms is not None), default=None),
        "result": seen,
    }


def steady(rate: float) -> str:
    return f"{rate:g} requests/s"


def update(server: Server, rate: float) -> list[Row]:
    """Promotions and rollbacks in turns, one after another: at rest, and under load."""
    version, longest = server.again(), 0.0
    at_rest = [_change(server, version, turn) for turn in range(4)]
    changes: list[tuple[float, float]] = []
    seconds = UPDATE_REQUESTS / rate
    with server.under_load(rate, seconds) as sample:
        end = time.monotonic() + seconds - 2 * LEAD_S
        # Start none that may end after the load.
        while time.monotonic() + 1.25 * longest < end:
            changes.append(_change(server, version, len(changes)))
            time.sleep(LEAD_S)
            longest = max(longest, changes[-1][1] + LEAD_S)
    if len(changes) % 2:
        rollout.rollback(version.name)
    name = "`raycls promote` and `raycls rollback` in turns"
    return [
        row(name, "none", [], _told(at_rest)),
        row(name, steady(rate), [sample.result()], _told(changes)),
    ]


def _change(server: Server, version: registry.ModelVersion, turn: int) -> tuple[float, float]:
    """Promote, or roll back in odd turns. Return the seconds until the wanted version answers, and until the end."""
    began = time.monotonic()
    with ThreadPoolExecutor(1) as executor:
        answered = executor.submit(_until_answering, server, (version, server.version)[turn % 2].version)
        if turn % 2:
            rollout.rollback(version.name)
        else:
            rollout.promote(version.name, version.version, force=COPY)
        return answered.result() - began, time.monotonic() - began


def _told(changes: list[tuple[float, float]]) -> str:
    parts = [
        f"{len(changes[turn::2])} {name}, first answer after "
        + ", ".join(f"{first:.1f}" for first, _ in changes[turn::2])
        + " s"
        for turn, name in enumerate(("promotions", "rollbacks"))
    ]
    return f"{'; '.join(parts)}; the longest took {max(all_of for _, all_of in changes):.0f} s to its end"


def _until_answering(server: Server, version: str) -> float:
    """Wait until a replica of the version answers, and return when that was, seconds of the monotonic clock."""
    deadline = time.monotonic() + 120
    while server.answering() != version:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"version {version} does not answer within two minutes")
        time.sleep(0.1)
    return time.monotonic()


def broken(server: Server, rate: float) -> list[Row]:
    """Promote versions that must be refused, and one whose checkpoint is damaged after it was checked."""
    rows = [_refused(server, rate, BROKEN_S, name, server.again(change)) for name, change in BROKEN.items()]
    late, examine = server.again(), gate.examine

    def then_damaged(
        version: registry.ModelVersion, champion: registry.ModelVersion | None, policy: PromotionPolicy
    ) -> registry.ModelVersion:
        fit = examine(version, champion, policy)
        cut_short(registry.checkpoint(version))
        return fit

    gate.examine = then_damaged
    try:
        rows.append(_refused(server, rate, LATE_S, "damaged after its check", late))
    finally:
        gate.examine = examine
    return rows


def _refused(server: Server, rate: float, seconds: float, name: str, version: registry.ModelVersion) -> Row:
    with server.under_load(rate, seconds) as sample:
        try:
            rollout.promote(version.name, version.version, force=COPY)
        except RefusedError as error:
            seen = str(error).replace(f"{home.home()}/", "")
        else:
            raise BenchmarkError(f"a broken version was promoted: {name}")
    if server.answering() != server.version.version:
        raise BenchmarkError(
            f"version {server.answering()} answers after a broken version was refused: {name}"
        )
    return row(f"promote: {name}", steady(rate), [sample.result()], seen)


def replica(server: Server, rate: float) -> list[Row]:
    """Send SIGKILL to a random replica every BETWEEN_KILLS_S."""
    rng, struck, least = random.Random(0), 0, REPLICAS
    with server.under_load(rate, KILLS * BETWEEN_KILLS_S + 4 * LEAD_S) as sample:
        for _ in range(KILLS):
            alive = server.replicas()
            least = min(least, server.running())
            if alive:
                rng.choice(alive).kill()
                struck += 1
            time.sleep(BETWEEN_KILLS_S)
    seen = f"{struck} kills; at least {least} replica(s) took requests before each"
    name = f"SIGKILL of a replica every {BETWEEN_KILLS_S:g} s"
    return [row(name, steady(rate), [sample.result()], seen)]


def hang(server: Server, rate: float) -> list[Row]:
    """Send SIGSTOP to a replica. It keeps its connections and answers nothing, health checks included."""
    with server.under_load(rate, HANG_S + 2 * LEAD_S) as sample:
        victim = server.replicas()[0]
        victim.suspend()
        began = time.monotonic()
        gone = None
        while time.monotonic() - began < HANG_S - LEAD_S:
            if gone is None and victim not in server.replicas():
                gone = time.monotonic() - began
            time.sleep(0.1)
    seen = (
        f"its process was replaced after {gone:.0f} s" if gone else f"it was not replaced in {HANG_S:.0f} s"
    )
    return [row("a replica hangs (SIGSTOP)", steady(rate), [sample.result()], seen)]


def controller(server: Server, rate: float) -> list[Row]:
    """Send SIGKILL to Serve's controller."""
    with server.under_load(rate, 30) as sample:
        server.controller().kill()
    seen = f"{len(server.replicas())} replicas afterwards"
    return [row("SIGKILL of Serve's controller", steady(rate), [sample.result()], seen)]


def overload(server: Server, rate: float) -> list[Row]:
    """Send OVERLOAD times the closed-loop peak. `rate` has no effect."""
    with ExitStack() as stack:
        if h2load.installed():
            url, images = f"{server.url}/predict", read_images(server.images)
            measure: Callable[[Load], Sample] = functools.partial(h2load.drive, url, images)
        else:
            measure = stack.enter_context(server.generator()).measure
        measure(PEAKS[0].model_copy(update={"seconds": 3}))
        peak = max(map(measure, PEAKS), key=lambda sample: sample.requests_per_s)
        offered = OVERLOAD * peak.requests_per_s
        over = measure(Load(rate=offered, seconds=OVERLOAD_S, warmup_seconds=3))
        after = max(map(measure, PEAKS), key=lambda sample: sample.requests_per_s)
    if not peak.p99_ms or not over.p99_ms:
        raise BenchmarkError(f"no request was answered with status 200: {peak.errors | over.errors}")
    seen = (
        f"peak {peak.requests_per_s:,.0f}/s with p99 {peak.p99_ms:.0f} ms; "
        f"{over.requests_per_s:,.0f}/s served ({over.requests_per_s / peak.requests_per_s:.0%} of the peak) with p99 "
        f"{over.p99_ms:.0f} ms ({over.p99_ms / peak.p99_ms:.1f} × the peak's); "
        + (f"99% of the 429s within {over.refused_p99_ms:.0f} ms; " if over.refused_p99_ms else "no 429; ")
        + f"peak afterwards {after.requests_per_s:,.0f}/s"
    )
    client = "h2load" if h2load.installed() else "our own client"
    load = f"{offered:,.0f} requests/s from {client}, at most {MAX_OUTSTANDING} unanswered"
    return [row(f"{OVERLOAD} × the peak for {OVERLOAD_S:.0f} s", load, [over], seen)]


def memory(server: Server, rate: float) -> list[Row]:
    """Measure the memory (USS) of both replicas about LOOKS times over MEMORY_REQUESTS. `rate` has no effect."""
    looks: list[float] = []
    samples: list[Sample] = []
    with server.generator() as generator, progress.bar("requests", total=MEMORY_REQUESTS) as bar:
        peak = generator.measure(PEAKS[0]).requests_per_s
        part = Load(connections=32, seconds=MEMORY_REQUESTS / LOOKS / peak, warmup_seconds=0)
        while sum(sample.answered for sample in samples) < MEMORY_REQUESTS and len(looks) < 2 * LOOKS:
            samples.append(generator.measure(part))
            looks.append(usage.memory_mib(server.replicas()))
            bar.advance(samples[-1].answered)
    first, last = looks[0], statistics.median(looks[-3:])
    seen = f"{first:.0f} MiB after the first {samples[0].answered:,}, {last:.0f} at the end: {last / first - 1:+.1%}"
    return [row("closed loop at full speed", "32 connections", samples, seen) | {"mib": looks}]


PARTS = {part.__name__: part for part in (update, broken, replica, hang, controller, overload, memory)}


def main(arguments: list[str]) -> None:
    """Measure one part, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--model", help="NAME, NAME@ALIAS or NAME/VERSION (default: the latest champion)")
    parser.add_argument("--rate", type=float, default=250, help="requests/s (default: 250)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    if not RATES[0] <= options.rate <= RATES[1]:
        raise UsageError(f"--rate {options.rate:g}: give a rate from {RATES[0]} to {RATES[1]} requests/s")
    with stage(options.model, SERVE_CONFIG, REPLICAS) as server:
        rows = PARTS[options.part](server, options.rate)
    document = results_page.document(options.part, {"rate": options.rate}, rows)
    file = results_page.keep(options.output, "resilience", document)
    page = results_page.write(options.output, "resilience", HEAD, SECTIONS)
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
