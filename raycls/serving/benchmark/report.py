"""A serving benchmark told: a table for the terminal, a plot (PNG) and a page (Markdown).

    print_table(results)                             # stderr
    write(results, Path("benchmarks/results"))       # serving.png, serving.md

Everything is said relative to the first replica count, which is 1.0. Draws and formats; decides nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raycls.serving.benchmark.results import Point, Results, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by colour-blind readers and in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
HEADER = (
    "replicas", "load", "requests/s", "speed-up", "p50 ms", "p95 ms", "p99 ms", "batch mean (max)",
    "cores: replicas + ingress + generator / busy", "n", "errors",
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
    for line in _accuracy(results) + results.conclusions():
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
        *_accuracy(results),
        *results.conclusions(),
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
        *(f"| {name} | {value} |" for name, value in facts.items()),
        *(f"| {name} | {value} |" for name, value in results.plan.model_dump(mode="json").items()),
        "",
    ]
    return "\n".join(lines)


def draw(results: Results, path: Path) -> None:
    """Throughput by connections, latency by connections and, with open loops, latency by offered rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    opened = any(results.open(count) for count in results.counts)
    panels = 3 if opened else 2
    figure = Figure(figsize=(5.2 * panels, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    _draw_throughput(axes[0], results)
    _draw_latency(axes[1], results)
    if opened:
        _draw_offered(axes[2], results)
    figure.suptitle(
        f"{results.model} on {results.hardware['cores']} × {results.hardware['CPU']}",
        fontsize=12,
        weight="bold",
    )
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_axisbelow(True)
    figure.savefig(path)


def _draw_throughput(axes: Axes, results: Results) -> None:
    connections = [point.connections for point in results.closed(results.counts[0])]
    width = 0.8 / len(results.counts)
    top = 0.0
    for index, count in enumerate(results.counts):
        for place, point in enumerate(results.closed(count)):
            spread, base = point.spread("requests_per_s"), results.closed(results.counts[0])[place]
            if not spread or not base.requests_per_s:
                continue
            x = place + (index - (len(results.counts) - 1) / 2) * width
            median, low, high = (value / base.requests_per_s for value in spread)
            axes.bar(
                x,
                median,
                width * 0.94,
                color=COLOURS[index % len(COLOURS)],
                label=_label(count) if not place else None,
            )
            axes.errorbar(
                x, median, [[median - low], [high - median]], color="black", capsize=2, linewidth=0.8
            )
            axes.annotate(
                f"{spread.median:,.0f}/s",
                (x, high),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
            top = max(top, high)
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(connections)), [str(count) for count in connections])
    axes.set_ylim(0, top * 1.3)
    axes.set_title("Throughput, closed loop")
    axes.set_xlabel("connections")
    axes.set_ylabel(f"requests/s, {_label(results.counts[0])} = 1.0")
    axes.legend(loc="upper left", ncols=2, frameon=False)


def _draw_latency(axes: Axes, results: Results) -> None:
    for index, count in enumerate(results.counts):
        closed = results.closed(count)
        _draw_quantiles(axes, [(point.connections or 0, point) for point in closed], index, _label(count))
    connections = [point.connections or 0 for point in results.closed(results.counts[0])]
    axes.set_xscale("log", base=2)
    axes.set_xticks(connections, [str(count) for count in connections])
    axes.minorticks_off()
    axes.set_title("Latency, closed loop")
    axes.set_xlabel("connections")
    _finish_latency(axes)


def _draw_offered(axes: Axes, results: Results) -> None:
    for index, count in enumerate(results.counts):
        _draw_quantiles(
            axes, [(point.rate or 0, point) for point in results.open(count)], index, _label(count)
        )
    axes.set_xlim(left=0)
    axes.set_title("Latency from the intended time, open loop")
    axes.set_xlabel("offered requests/s")
    _finish_latency(axes)


def _draw_quantiles(axes: Axes, points: list[tuple[float, Point]], index: int, label: str) -> None:
    """p50 solid and p99 dashed, each with a whisker from its least to its greatest repeat."""
    for field, style, name in (("p50_ms", "-", "p50"), ("p99_ms", "--", "p99")):
        known: list[tuple[float, Spread]] = [(x, s) for x, point in points if (s := point.spread(field))]
        if not known:
            continue
        middle = [spread.median for _, spread in known]
        below = [spread.median - spread.low for _, spread in known]
        above = [spread.high - spread.median for _, spread in known]
        axes.errorbar(
            [x for x, _ in known], middle, [below, above], label=f"{label}, {name}", linestyle=style, marker="o",
            markersize=4, capsize=2, linewidth=1.6, elinewidth=0.8, color=COLOURS[index % len(COLOURS)],
        )  # fmt: skip


def _finish_latency(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.minorticks_off()
    axes.grid(axis="y", linewidth=0.4)
    axes.set_ylabel("latency, ms (log scale)")
    axes.legend(frameon=False, fontsize=9)


def _label(count: int | None) -> str:
    return "the server" if count is None else f"{count} replica{'s' if count != 1 else ''}"


def _setting(results: Results) -> str:
    plan = results.plan
    return (
        f"{results.hardware['cores']} cores of {results.hardware['CPU']}, {results.hardware['memory']}; "
        f"{plan.repeats} × {plan.seconds:g} s a load"
    )


def _accuracy(results: Results) -> list[str]:
    if results.accuracy_over_http is None:
        return []
    known = (
        f"; {results.test_accuracy:.2%} in process on the whole test split" if results.test_accuracy else ""
    )
    return [f"Accuracy of the answers over HTTP: {results.accuracy_over_http:.2%}{known}."]


def _row(results: Results, point: Point) -> tuple[str, ...]:
    rate, speedup = point.spread("requests_per_s"), results.speedup(point)
    assert rate
    quantiles = [point.spread(field) for field in ("p50_ms", "p95_ms", "p99_ms")]
    cores = point.cores
    batch = f"{point.batch_mean:.1f} ({point.batch_max:.0f})" if point.batch_mean and point.batch_max else "–"
    return (
        "–" if point.replicas is None else str(point.replicas),
        f"{point.connections} connections" if point.connections else f"{point.rate:,.0f}/s offered",
        f"{rate.median:,.0f} ({rate.low:,.0f}–{rate.high:,.0f})",
        f"{speedup:.2f} ×" if speedup else "–",
        *(f"{spread.median:.2f}" if spread else "–" for spread in quantiles),
        batch,
        f"{cores['replicas']:.2f} + {cores['ingress']:.2f} + {cores['generator']:.2f} / {cores['busy']:.2f}",
        f"{sum(sample.answered for sample in point.samples):,}",
        ", ".join(f"{kind}: {count}" for kind, count in point.errors.items()) or "0",
    )
