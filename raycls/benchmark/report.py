"""The report of a serving benchmark: a table for the terminal, and a Markdown page with a plot.

    print_table(results)                             # stderr
    write(results, Path("benchmarks/results"))       # serving.png, serving.md

Speed-ups are relative to the first replica count. The conclusions come from raycls/benchmark/results.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raycls.benchmark.plot import draw
from raycls.benchmark.results import Point, Results

HEADER = (
    "replicas", "load", "requests/s", "speed-up", "efficiency", "p50 ms", "p95 ms", "p99 ms",
    "batch mean (max)",
    "cores used: replicas + ingress + generator / all", "n", "errors",
)  # fmt: skip
READING = """\
Values are medians over the repeats; requests/s also has its minimum and maximum. Closed loop (connections): each
connection sends its next request when the previous one is answered. Open loop (offered): requests are sent on a fixed
schedule, and latency counts from the scheduled time. Latencies are those of answers with status 200; every other answer
is an error. The load generator shares the cores with the server; the table shows how much it uses. Batch sizes and
cores include half a second of warm-up before each repeat. The maximum of a batch is the bound of a histogram bucket.
The replica counts were measured one after another, and the loads of one count in turns."""


def rows(results: Results) -> list[tuple[str, ...]]:
    """Return one row per point, as in HEADER. Values are medians over the repeats; requests/s has (min–max)."""
    return [_row(results, point) for point in results.points]


def print_table(results: Results) -> None:
    """Print the table and the conclusions on stderr."""
    width = None if sys.stderr.isatty() else 180  # a log file has no width
    console = Console(stderr=True, highlight=False, width=width)
    table = Table(title=f"{results.model}: {_setting(results)}", caption_justify="left")
    for column in HEADER:
        table.add_column(column, justify="left" if column in ("load", "errors") else "right")
    previous = None
    for point, row in zip(results.points, rows(results), strict=True):
        if previous and previous != point.replicas:
            table.add_section()
        table.add_row(*row, style="red" if point.errors else None)
        previous = point.replicas
    console.print(table)
    for line in _notes(results) + results.conclusions():
        console.print(line, markup=False, soft_wrap=True)


def write(results: Results, directory: Path) -> list[Path]:
    """Write serving.md and serving.png into directory, in place of older ones, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    plot, page = directory / "serving.png", directory / "serving.md"
    draw(results, plot)
    page.write_text(markdown(results, plot.name))
    return [page, plot]


def markdown(results: Results, plot: str) -> str:
    """Return the page: conclusions, plot, table, an explanation of the columns, machine and settings."""
    facts = {**results.hardware, **results.versions}
    memory = [f"{mib:.0f} MiB with {count}" for count, mib in results.memory_mib.items()]
    lines = [
        f"# Serving {results.model}",
        "",
        f"{results.date} UTC. {_setting(results)}.",
        "",
        *(f"- {line}" for line in _notes(results) + results.conclusions()),
        "",
        f"![requests/s, latency by connections, latency by offered rate]({plot})",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(row) + " |" for row in rows(results)),
        "",
        *READING.splitlines(),
        "",
        *([f"Memory of a replica (USS): {', '.join(memory)} replicas.", ""] if memory else []),
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in (facts | results.config).items()),
        *(f"| {name} | {value} |" for name, value in results.plan.model_dump(mode="json").items()),
        "",
    ]
    return "\n".join(lines)


def _setting(results: Results) -> str:
    plan = results.plan
    return (
        f"{results.hardware['cores']} cores of {results.hardware['CPU']}, {results.hardware['memory']}; "
        f"{plan.repeats} × {plan.seconds:g} s a load"
    )


def _notes(results: Results) -> list[str]:
    notes = []
    if results.accuracy_over_http is not None:
        registered = (
            f" (registered on the whole test split: {results.test_accuracy:.2%})"
            if results.test_accuracy
            else ""
        )
        notes.append(f"Accuracy of the answers over HTTP: {results.accuracy_over_http:.2%}{registered}.")
    if results.plan.simulate_forward_ms:
        notes.append(
            f"The network is simulated: each image sleeps {results.plan.simulate_forward_ms:g} ms, which needs no CPU."
        )
    if results.bound_per_s:
        reached = max(results.peak(count).requests_per_s for count in results.counts) / results.bound_per_s
        notes.append(
            f"The bound of this machine is {results.bound_per_s:,.0f} images/s: one bare process per core decodes and "
            f"classifies. The best load below reaches {reached:.0%} of it."
        )
    if late := [spread.median for point in results.points if (spread := point.spread("late_p99_ms"))]:
        notes.append(f"In the open loops, the load generator sent at most {max(late):.2f} ms late (p99).")
    return notes


def _load(point: Point) -> str:
    if point.rate:
        return f"{point.rate:,.0f}/s offered"
    return f"{point.connections} connection{'s' if point.connections != 1 else ''}"


def _row(results: Results, point: Point) -> tuple[str, ...]:
    rate, speedup, efficiency = (
        point.spread("requests_per_s"),
        results.speedup(point),
        results.efficiency(point),
    )
    assert rate
    quantiles = [point.spread(field) for field in ("p50_ms", "p95_ms", "p99_ms")]
    cores = point.cores
    batch = f"{point.batch_mean:.1f} ({point.batch_max:.0f})" if point.batch_mean and point.batch_max else "–"
    return (
        "–" if point.replicas is None else str(point.replicas),
        _load(point),
        f"{rate.median:,.0f} ({rate.low:,.0f}–{rate.high:,.0f})",
        f"{speedup:.2f} ×" if speedup else "–",
        f"{efficiency:.2f} ×" if efficiency else "–",
        *(f"{spread.median:.2f}" if spread else "–" for spread in quantiles),
        batch,
        f"{cores['replicas']:.2f} + {cores['ingress']:.2f} + {cores['generator']:.2f} / {cores['busy']:.2f}",
        f"{sum(sample.answered for sample in point.samples):,}",
        ", ".join(f"{kind}: {count}" for kind, count in point.errors.items()) or "0",
    )
