"""A serving benchmark told: a table for the terminal, and a page (Markdown) with its plot.

    print_table(results)                             # stderr
    write(results, Path("benchmarks/results"))       # serving.png, serving.md

Speed-ups are relative to the first replica count, which is 1.0. Formats; decides nothing.
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
Medians over the repeats; requests/s with the least and the most. Closed loop (connections): each connection sends
its next request when the last is answered. Open loop (offered): requests leave on a fixed schedule, and latency
counts from the scheduled time. Latencies are of answers with status 200; all else is counted as an error. The load
generator shares the cores with the server: the table says how much it takes. Batch sizes and cores include half a
second of warm-up before each repeat; a batch's maximum is the bound of a histogram's bucket. The replica counts were
measured one after another, the loads of one count in turns."""


def rows(results: Results) -> list[tuple[str, ...]]:
    """One row per point under HEADER; a figure is the median over the repeats, with (least–most) for requests/s."""
    return [_row(results, point) for point in results.points]


def print_table(results: Results) -> None:
    """The table and the conclusions, on stderr."""
    width = None if sys.stderr.isatty() else 180  # a log has no edge to wrap at
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
    """serving.png and serving.md in directory, which is made; earlier ones are replaced. Their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    plot, page = directory / "serving.png", directory / "serving.md"
    draw(results, plot)
    page.write_text(markdown(results, plot.name))
    return [page, plot]


def markdown(results: Results, plot: str) -> str:
    """The page: circumstances, table, plot, what follows, and how to read it."""
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
        known = (
            f"; {results.test_accuracy:.2%} in process on the whole test split"
            if results.test_accuracy
            else ""
        )
        notes.append(f"Accuracy of the answers over HTTP: {results.accuracy_over_http:.2%}{known}.")
    if results.plan.simulate_forward_ms:
        notes.append(
            f"A simulated network: each image sleeps {results.plan.simulate_forward_ms:g} ms, which takes no core."
        )
    if results.bound_per_s:
        reached = max(results.peak(count).requests_per_s for count in results.counts) / results.bound_per_s
        notes.append(
            f"The bound of this machine: bare processes, one on each core, decode and classify "
            f"{results.bound_per_s:,.0f} images/s; the best of the loads below is {reached:.0%} of it."
        )
    if late := [spread.median for point in results.points if (spread := point.spread("late_p99_ms"))]:
        notes.append(f"Open loops: the load generator itself sent at most {max(late):.2f} ms late (p99).")
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
