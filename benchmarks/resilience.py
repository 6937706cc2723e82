"""What a served model loses while it is updated, killed, hung, overloaded: requests, counted under a steady load.

    python benchmarks/resilience.py update                 # raycls promote, there and back, 20,000 requests
    python benchmarks/resilience.py broken                 # promote of versions that must not be served
    python benchmarks/resilience.py replica                # SIGKILL of a replica every 5 s for a minute
    python benchmarks/resilience.py hang                   # a replica that stops answering, and its health check
    python benchmarks/resilience.py controller             # SIGKILL of Serve's controller
    python benchmarks/resilience.py overload               # three times the peak for a minute
    python benchmarks/resilience.py memory                 # 500,000 requests

The model (default: the champion promoted last) is served from a temporary RAYCLS_HOME by two replicas on a cluster of
its own, so that nothing of yours is touched. Results go to OUTPUT/resilience/PART.json (benchmarks/results), from which
the page OUTPUT/resilience.md is made anew, and one JSON document to the last line of stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

from raycls import home, progress, registry, results_page, script
from raycls.errors import BenchmarkError, RefusedError
from raycls.models import checkpoint
from raycls.results_page import Document, Row, Section, table
from raycls.serving import rollout
from raycls.serving.benchmark import usage
from raycls.serving.benchmark.load import Load, Sample
from raycls.serving.benchmark.stage import LEAD_S, Change, Server, stage

HERE = Path(__file__).parent
SERVE_CONFIG = HERE.parent / "serve_config.yaml"
REPLICAS = 2
UPDATE_REQUESTS, MEMORY_REQUESTS = 20_000, 500_000
KILLS, BETWEEN_KILLS_S = 12, 5.0
HANG_S = 60.0  # under load: health checks that fail, a new replica, and what was inside
OVERLOAD, OVERLOAD_S = 3, 60.0
PEAK = Load(connections=32, seconds=10)


def row(name: str, sample: Sample, told: str) -> Row:
    return {
        "disturbance": name,
        "answered": sample.answered,
        "errors": sample.errors,
        "p99_ms": sample.p99_ms,
        "max_ms": sample.max_ms,
        "told": told,
    }


def update(server: Server, rate: float) -> list[Row]:
    """Rolling updates, one after another, under load."""
    versions, updates = [server.again(), server.version], 0
    seconds = UPDATE_REQUESTS / rate
    with server.under_load(rate, seconds) as samples:
        end = time.monotonic() + seconds - 3 * LEAD_S
        while time.monotonic() < end:
            rollout.promote(server.version.name, versions[updates % 2].version)
            updates += 1
            time.sleep(LEAD_S)
    return [row("`raycls promote` of a good version", samples[0], f"{updates} updates, there and back")]


def _weights(directory: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(directory / checkpoint.WEIGHTS)
    save_file(
        {name: change(t) if t.is_floating_point() else t for name, t in weights.items()},
        directory / checkpoint.WEIGHTS,
    )


def _card(directory: Path, **changed: object) -> None:
    path = directory / checkpoint.CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def _other_classes(directory: Path) -> None:
    count = len(checkpoint.load_card(directory).classes)
    _card(directory, classes=[f"class {index}" for index in range(count)])


BROKEN: dict[str, Change] = {
    "a damaged checkpoint": lambda directory: os.truncate(directory / checkpoint.WEIGHTS, 1000),
    "NaN for answers": lambda directory: _weights(directory, lambda tensor: tensor * float("nan")),
    "all forgotten": lambda directory: _weights(directory, torch.zeros_like),
    "other classes": _other_classes,
    "a network that raises": lambda directory: _card(directory, image_size=0),
}


def broken(server: Server, rate: float) -> list[Row]:
    """Versions that must be refused; and one that is damaged after the look at it, when its replicas start."""
    rows = []
    for name, change in BROKEN.items():
        rows.append(_refused(server, rate, name, server.again(change)))
    late = server.again()

    def damage(version: registry.ModelVersion, champion: object) -> None:
        os.truncate(registry.checkpoint(version) / checkpoint.WEIGHTS, 1000)

    with mock.patch.object(rollout, "examine", damage):
        rows.append(_refused(server, rate, "damaged after the look at it", late))
    return rows


def _refused(server: Server, rate: float, name: str, version: registry.ModelVersion) -> Row:
    with server.under_load(rate, 20) as samples:
        try:
            rollout.promote(version.name, version.version)
        except RefusedError as error:
            told = str(error).replace(f"{home.home()}/", "")
        else:
            raise BenchmarkError(f"a version with {name} was promoted")
    if server.answering() != server.version.version:
        raise BenchmarkError(f"after a version with {name}, version {server.answering()} answers")
    return row(f"promote: {name}", samples[0], told)


def replica(server: Server, rate: float) -> list[Row]:
    """SIGKILL of a random replica, every BETWEEN_KILLS_S."""
    rng, struck, least = random.Random(0), 0, REPLICAS
    with server.under_load(rate, KILLS * BETWEEN_KILLS_S + 4 * LEAD_S) as samples:
        for _ in range(KILLS):
            alive = server.replicas()
            least = min(least, len(alive))
            if alive:
                rng.choice(alive).kill()
                struck += 1
            time.sleep(BETWEEN_KILLS_S)
    told = f"{struck} kills; at least {least} replica(s) alive before each"
    return [row(f"SIGKILL of a replica every {BETWEEN_KILLS_S:g} s", samples[0], told)]


def hang(server: Server, rate: float) -> list[Row]:
    """SIGSTOP of a replica: it keeps its connections and answers nothing, health checks included."""
    with server.under_load(rate, HANG_S + 2 * LEAD_S) as samples:
        victim = server.replicas()[0]
        victim.suspend()
        began = time.monotonic()
        gone = None
        while time.monotonic() - began < HANG_S - LEAD_S:
            if gone is None and victim not in server.replicas():
                gone = time.monotonic() - began
            time.sleep(0.1)
    told = (
        f"its process was replaced after {gone:.0f} s" if gone else f"it was not replaced in {HANG_S:.0f} s"
    )
    return [row("a replica that hangs (SIGSTOP)", samples[0], told)]


def controller(server: Server, rate: float) -> list[Row]:
    """SIGKILL of the process that keeps the replicas."""
    with server.under_load(rate, 30) as samples:
        server.controller().kill()
    return [row("SIGKILL of Serve's controller", samples[0], f"{len(server.replicas())} replicas afterwards")]


def overload(server: Server, rate: float) -> list[Row]:
    """OVERLOAD times the closed-loop peak. `rate` is not used."""
    with server.generator() as generator:
        generator.measure(PEAK.model_copy(update={"seconds": 3}))
        peak = generator.measure(PEAK)
        offered = OVERLOAD * peak.requests_per_s
        over = generator.measure(Load(rate=offered, seconds=OVERLOAD_S, warmup_seconds=3))
        after = generator.measure(PEAK)
    assert peak.p99_ms and over.p99_ms
    told = (
        f"peak {peak.requests_per_s:,.0f}/s with p99 {peak.p99_ms:.0f} ms; at {offered:,.0f}/s offered "
        f"{over.requests_per_s:,.0f}/s served, {over.requests_per_s / peak.requests_per_s:.0%} of the peak, p99 "
        f"{over.p99_ms:.0f} ms, {over.p99_ms / peak.p99_ms:.1f} × that at the peak; peak afterwards "
        f"{after.requests_per_s:,.0f}/s"
    )
    return [row(f"{OVERLOAD} × the peak for {OVERLOAD_S:.0f} s", over, told)]


def memory(server: Server, rate: float) -> list[Row]:
    """USS of both replicas while MEMORY_REQUESTS are answered, ten looks after a tenth of them. `rate` is not used."""
    looks: list[float] = []
    sample = None
    with server.generator() as generator, progress.bar("requests", total=MEMORY_REQUESTS) as bar:
        rates = generator.measure(PEAK).requests_per_s
        while len(looks) < 11:
            sample = generator.measure(
                Load(connections=32, seconds=MEMORY_REQUESTS / 11 / rates, warmup_seconds=0)
            )
            looks.append(usage.memory_mib(server.replicas()))
            bar.advance(sample.answered)
    first, last = looks[1], statistics.median(looks[-3:])
    told = f"{first:.0f} MiB after a tenth, {last:.0f} MiB at the end: {last / first - 1:+.1%}"
    assert sample
    return [row(f"{MEMORY_REQUESTS:,} requests", sample, told) | {"mib": looks}]


HEAD = """\
# Nothing lost

Requests that failed while something happened to the server: two replicas of the champion, a steady open loop from one
client process on the same machine, every answer but status 200 counted as failed.
"""
GOALS = {
    "update": "0",
    "broken": "0, the old version keeps serving",
    "replica": "0",
    "hang": "only those inside it, within 10 s",
    "controller": "0",
    "overload": "429 at once; at least 90% of the peak; p99 at most 3 ×; no timeout",
    "memory": "flat within 5%",
}


def _section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = [
        (
            line["disturbance"],
            GOALS[document["name"]],
            f"{line['answered'] + sum(line['errors'].values()):,}",
            ", ".join(f"{kind}: {count:,}" for kind, count in line["errors"].items()) or "**0**",
            f"{line['p99_ms']:.0f}, {line['max_ms']:.0f}",
            line["told"],
        )
        for line in document["rows"]
    ]
    header = ("what happens", "may fail", "requests", "failed", "p99, longest ms", "seen")
    rate = document["arguments"]["rate"]
    return (
        f"## {document['name']}\n\nAt {rate:g} requests/s, {document['date']} UTC.\n\n{table(header, lines)}"
    )


SECTIONS: dict[str, Section] = dict.fromkeys(GOALS, _section)
PARTS = {part.__name__: part for part in (update, broken, replica, hang, controller, overload, memory)}


def main(arguments: list[str]) -> None:
    """Parse, serve, disturb, count, write, print. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument(
        "--model", help="NAME, NAME@ALIAS or NAME/VERSION (default: the champion promoted last)"
    )
    parser.add_argument("--rate", type=float, default=250, help="requests/s (default: 250)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    with stage(options.model, SERVE_CONFIG, REPLICAS) as server:
        rows = PARTS[options.part](server, options.rate)
    document = results_page.document(options.part, {"rate": options.rate}, rows)
    file = results_page.keep(options.output, "resilience", document)
    page = results_page.write(options.output, "resilience", HEAD, SECTIONS)
    progress.say(f"written: {file}, {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    script.run(main)
