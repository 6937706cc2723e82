"""Measure how autoscaling follows a step of the load: 1 connection, then 64, then none.

    python benchmarks/autoscaling.py                       # the champion, served as in serve_config.yaml
    python benchmarks/autoscaling.py --connections 100 --seconds 40

The model is served from a temporary RAYCLS_HOME on its own cluster. Serve is asked four times a second how many
replicas take requests. The load is a closed loop, measured second by second. The results go to
OUTPUT/autoscaling/autoscaling.json, OUTPUT/autoscaling.png and OUTPUT/autoscaling.md (default: benchmarks/results). The
last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import results_page
from harness.results_page import Document, Section, table
from harness.served_copy import Server, stage

from raycls import command, progress
from raycls.benchmark.load import MAX_OUTSTANDING, Load, LoadGenerator
from raycls.benchmark.plot import COLOURS, log_scale
from raycls.errors import UsageError
from raycls.serving.control.configuration import ServeConfiguration

HERE = Path(__file__).parent
SERVE_CONFIG = HERE.parent / "serve_config.yaml"
LOOK_S = 0.25  # interval between two counts of the replicas
CALM_S = 10  # of one connection, before the step
QUIET_S = 90  # longest wait after the load until one replica is left

Count = tuple[float, int]  # seconds since the step, replicas


def measure(server: Server, connections: int, seconds: int, most: int) -> dict[str, Any]:
    """Return the replicas and the load over time. Time 0 is the step."""
    looks: list[Count] = []
    loads: list[dict[str, Any]] = []
    step = time.monotonic() + CALM_S + 1
    with counted(server, step, looks), server.generator() as generator:
        while time.monotonic() < step - 0.5:
            loads.append(one_second(generator, 1, step))
        step_at = time.monotonic() - step
        while time.monotonic() < step + seconds:
            loads.append(one_second(generator, connections, step))
        end_at = time.monotonic() - step
        while looks[-1][1] > 1 and time.monotonic() - step - end_at < QUIET_S:
            time.sleep(LOOK_S)
    return {"connections": connections, "step_at": step_at, "end_at": end_at, "target": most, "looks": looks,
            "loads": loads}  # fmt: skip


@contextmanager
def counted(server: Server, step: float, looks: list[Count]) -> Iterator[None]:
    """Append the number of replicas to `looks` every LOOK_S. Raises ClusterError if Serve does not answer."""
    over = threading.Event()

    def look() -> None:
        for due in itertools.count(time.monotonic(), LOOK_S):
            looks.append((time.monotonic() - step, server.running()))
            if over.wait(max(0.0, due + LOOK_S - time.monotonic())):
                return

    with ThreadPoolExecutor(1) as executor:
        counting = executor.submit(look)
        try:
            yield
        finally:
            over.set()
        counting.result()


def one_second(generator: LoadGenerator, connections: int, step: float) -> dict[str, Any]:
    began = time.monotonic() - step
    sample = generator.measure(Load(connections=connections, seconds=1, warmup_seconds=0))
    return {"at": began, "connections": connections, "requests_per_s": sample.requests_per_s,
            "p99_ms": sample.p99_ms, "errors": sum(sample.errors.values())}  # fmt: skip


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """Return the values that have goals. Times are seconds after the step or its end; None: it did not happen."""
    looks, step, end = row["looks"], row["step_at"], row["end_at"]
    before = max((count for at, count in looks if at < step), default=1)

    def first(wanted: int, since: float, down: bool = False) -> float | None:
        return next(
            (at - since for at, n in looks if at >= since and (n <= wanted if down else n >= wanted)), None
        )

    counts = [count for _, count in looks]
    moves = [later - earlier for earlier, later in itertools.pairwise(counts) if later != earlier]
    return {
        "one_more_s": first(before + 1, step),
        "target_s": first(row["target"], step),
        "back_s": first(1, end, down=True),
        "reversals": sum(a * b < 0 for a, b in itertools.pairwise(moves)),
        "failed": sum(load["errors"] for load in row["loads"]),
    }


def draw(row: dict[str, Any], path: Path) -> None:
    """Draw replicas, requests/s and p99 over time in three panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    replicas, rate, latency = figure.subplots(3, 1, sharex=True)
    replicas.step(*zip(*row["looks"], strict=True), where="post", color=COLOURS[0], linewidth=2)
    replicas.set_ylabel("replicas")
    replicas.set_ylim(0, row["target"] + 0.5)
    replicas.set_yticks(range(row["target"] + 1))
    middles = [load["at"] + 0.5 for load in row["loads"]]
    rate.plot(middles, [load["requests_per_s"] for load in row["loads"]], color=COLOURS[2], marker=".")
    rate.set_ylabel("requests/s")
    rate.set_ylim(bottom=0)
    latency.plot(middles, [load["p99_ms"] for load in row["loads"]], color=COLOURS[4], marker=".")
    log_scale(latency)
    latency.set_ylabel("p99, ms (log scale)")
    latency.set_xlabel("seconds after the step")
    for panel in (replicas, rate, latency):
        panel.axvspan(row["step_at"], row["end_at"], color="#dddddd", alpha=0.5, zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"1, then {row['connections']} connections (shaded), then none", weight="bold")
    figure.savefig(path)


def _section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    (row,) = document["rows"]
    seen = summary(row)

    def after(seconds: float | None) -> str:
        return "never" if seconds is None else f"**{seconds:.1f} s**"

    lines = [
        ("time from the step until one more replica takes requests", after(seen["one_more_s"]), "8 s"),
        (f"time from the step until {row['target']} replicas take requests", after(seen["target_s"]), "15 s"),
        ("time from the end of the load until one replica is left", after(seen["back_s"]), "60 s"),
        ("changes of direction (up, then down: 1)", f"**{seen['reversals']}**", "1"),
        ("failed requests", f"**{seen['failed']}**", "0"),
    ]
    return (
        f"{document['date']} UTC. The load steps from 1 connection to {row['connections']}, and later to none.\n\n"
        f"{table(('', 'measured', 'goal: at most'), lines)}\n![replicas, requests/s and p99 over time]"
        "(autoscaling.png)\n"
    )


HEAD = "# Autoscaling\n"
SECTIONS: dict[str, Section] = {"autoscaling": _section}


def main(arguments: list[str]) -> None:
    """Serve the model, measure one step, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="NAME, NAME@ALIAS or NAME/VERSION (default: the latest champion)")
    parser.add_argument(
        "--connections", type=int, default=64, help="connections after the step (default: 64)"
    )
    parser.add_argument("--seconds", type=int, default=40, help="length of the step (default: 40)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    if not 2 <= options.connections <= MAX_OUTSTANDING or options.seconds < 1:
        raise UsageError(f"--connections takes 2 to {MAX_OUTSTANDING}, --seconds at least 1")
    most = ServeConfiguration.read(SERVE_CONFIG).deployment["autoscaling_config"]["max_replicas"]
    with stage(options.model, SERVE_CONFIG) as server, progress.bar("following the step"):
        row = measure(server, options.connections, options.seconds, most)
    asked = {"connections": options.connections, "seconds": options.seconds}
    document = results_page.document("autoscaling", asked, [row | summary(row)])
    file = results_page.keep(options.output, "autoscaling", document)
    draw(row, options.output / "autoscaling.png")
    page = results_page.write(options.output, "autoscaling", HEAD, SECTIONS)
    progress.say(f"wrote {file}, {page} and its picture")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
