"""The plot of a serving benchmark: throughput by connections, latency by connections, latency by offered rate.

    draw(results, Path("serving.png"))

Points are medians over the repeats. Whiskers reach from the minimum to the maximum.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raycls.benchmark.results import Point, Results, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The palette of Okabe and Ito: colour-blind readers can tell the colours apart, also in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")


def draw(results: Results, path: Path) -> None:
    """Write the plot to path (PNG). The third panel, latency by offered rate, needs open loops."""
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
                va="bottom",
                fontsize=8,
                rotation=0 if len(results.counts) <= 2 else 90,  # horizontal labels of narrow bars overlap
            )
            top = max(top, high)
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    if results.bound_per_s:
        bases = [point.requests_per_s for point in results.closed(results.counts[0])]
        heights = [results.bound_per_s / base if base else 0.0 for base in bases]
        places = [place for place, height in enumerate(heights) if 0 < height < 4 * top]
        for place in places:
            label = "bound: bare processes" if place == places[0] else ""
            ends = place - 0.45, place + 0.45
            axes.hlines(heights[place], *ends, color="black", linewidth=1.4, linestyle="--", label=label)
        top = max([top, *(heights[place] for place in places)])
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
    """Draw p50 (solid) and p99 (dashed), each with whiskers from the minimum to the maximum of the repeats."""
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


def log_scale(axes: Axes) -> None:
    """Give the axes a logarithmic y axis with plain numbers at 1, 2, 5, 10, 20, 50 and so on."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.minorticks_off()
    axes.grid(axis="y", linewidth=0.4)


def _finish_latency(axes: Axes) -> None:
    log_scale(axes)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
    axes.set_ylabel("latency, ms (log scale)")
    axes.legend(frameon=False, fontsize=9)


def _label(count: int | None) -> str:
    return "the server" if count is None else f"{count} replica{'s' if count != 1 else ''}"
