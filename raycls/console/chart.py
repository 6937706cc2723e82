"""Learning curves as SVG, made by the server.

    chart([{"epoch": 1, "train_loss": 2.0, "val_loss": 1.9}, …], ("train_loss", "val_loss"))

Knows numbers only. Colours and fonts are those of console.css: a line has the class line-0, line-1, …
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 520, 220, 46, 24, 10
TICKS = 4


def chart(history: Sequence[Mapping[str, float]], names: Sequence[str]) -> str:
    """Return the HTML of an <svg> with a line for each name that the history has; empty text where it has none of them.

    history: one mapping for each epoch, in order, with the key `epoch`. What is not a number is left out.
    """
    lines = {
        name: [(row["epoch"], row[name]) for row in history if name in row and math.isfinite(row[name])]
        for name in names
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    values = [value for points in lines.values() for _, value in points]
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    first = min(points[0][0] for points in lines.values())
    last = max(points[-1][0] for points in lines.values())

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * ((epoch - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / span)

    parts = []
    for tick in range(TICKS + 1):
        value = low + span * tick / TICKS
        parts.append(
            f'<line class="grid-line" x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    parts.append(f'<text class="tick" x="{LEFT}" y="{HEIGHT - 6}">epoch {first:g}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{last:g}</text>')
    for number, points in enumerate(lines.values()):
        places = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in points)
        parts.append(f'<polyline class="line-{number}" points="{places}"/>')
        end = points[-1]
        parts.append(f'<circle class="line-{number}" cx="{x(end[0]):.1f}" cy="{y(end[1]):.1f}" r="3"/>')
    said = "; ".join(
        f"{name.replace('_', ' ')} ends at {points[-1][1]:.4g}" for name, points in lines.items()
    )
    legend = "".join(
        f'<span class="legend line-{number}">{escape(name.replace("_", " "))} {points[-1][1]:.4g}</span>'
        for number, (name, points) in enumerate(lines.items())
    )
    return (
        f'<figure class="chart"><svg role="img" aria-label="{escape(said)}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(parts)}</svg><figcaption>{legend}</figcaption></figure>"
    )
