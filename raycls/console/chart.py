"""Charts as SVG, made by the server: learning curves, and accuracy against latency.

    chart([{"epoch": 1, "train_loss": 2.0, "val_loss": 1.9}, …], ("train_loss", "val_loss"))
    front([(1.2, 0.91, "trial 3", "front"), …], across="latency, ms", up="val_accuracy")

Knows numbers only. Colours and fonts are those of console.css: a line has the class line-0, line-1, …
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 520, 230, 58, 28, 10, 10
TICKS = 4  # steps between the lowest and the highest number, at most one more
# The radius of a point by its kind; the chosen one is drawn last.
RADIUS = {"trial": 4, "front": 5, "chosen": 8}

Point = tuple[float, float]
Placed = Callable[[float], float]


def chart(
    history: Sequence[Mapping[str, float | None]],
    names: Sequence[str],
    across: str = "epoch",
    *,
    from_zero: bool = False,
) -> str:
    """Return the HTML of an <svg> with a line for each name that the history has; empty text where it has none of them.

    history: mappings in the order of their key `across`, as one for each epoch. Where a line has no number, it has
    a gap.
    from_zero: the axis begins at 0 or below, so that half the height is half the value.
    """
    # Of each line its pieces, between which it has no value.
    lines: dict[str, list[list[Point]]] = {name: [[]] for name in names}
    for row in history:
        for name in names:
            x_value, value = row[across], row.get(name)
            if x_value is not None and value is not None and math.isfinite(value):
                lines[name][-1].append((x_value, value))
            elif lines[name][-1]:
                lines[name].append([])
    lines = {name: found for name, pieces in lines.items() if (found := [piece for piece in pieces if piece])}
    if not lines:
        return ""
    drawn = [point for pieces in lines.values() for piece in pieces for point in piece]
    x, y, parts = _axes(drawn, f"{across} ", lowest=0.0 if from_zero else math.inf)
    for number, pieces in enumerate(lines.values()):
        for piece in pieces:
            places = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in piece)
            parts.append(f'<polyline class="line-{number}" points="{places}"/>')
        # The end, and pieces of one point, which no line would show.
        for epoch, value in {pieces[-1][-1], *(piece[0] for piece in pieces if len(piece) == 1)}:
            parts.append(f'<circle class="line-{number}" cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="3"/>')
    ends = {name: pieces[-1][-1][1] for name, pieces in lines.items()}
    said = "; ".join(f"{_plain(name)} ends at {_short(value)}" for name, value in ends.items())
    legend = "".join(
        f'<span class="legend line-{number}">{escape(_plain(name))} {_short(value)}</span>'
        for number, (name, value) in enumerate(ends.items())
    )
    return _figure(said, parts, legend)


def front(points: Sequence[tuple[float, float, str, str]], *, across: str, up: str) -> str:
    """Return the HTML of an <svg> with the points (x, y, name, kind), whose kinds are those of RADIUS, and a line
    through those of the front; empty text without points."""
    if not points:
        return ""
    x, y, parts = _axes([(right, height) for right, height, _, _ in points], "")
    line = sorted((right, height) for right, height, _, kind in points if kind != "trial")
    places = " ".join(f"{x(right):.1f},{y(height):.1f}" for right, height in line)
    parts.append(f'<polyline class="line-0" points="{places}"/>')
    for right, height, name, kind in sorted(points, key=lambda point: RADIUS[point[3]]):
        parts.append(
            f'<circle class="point-{kind}" cx="{x(right):.1f}" cy="{y(height):.1f}" r="{RADIUS[kind]}">'
            f"<title>{escape(name)}: {height:.4g}, {right:.3g}</title></circle>"
        )
    legend = f"up: {escape(_plain(up))}; to the right: {escape(across)}; the line joins those that none beats in both"
    return _figure(f"{len(points)} trials, {_plain(up)} against {across}", parts, legend)


def _axes(points: Sequence[Point], of_x: str, lowest: float = math.inf) -> tuple[Placed, Placed, list[str]]:
    """Return where a value of x and of y lies, and the grid with its numbers.

    of_x: text before the first x. lowest: a value of y that the axis shows too.
    """
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    ticks = _ticks(min(lowest, *(y for _, y in points)), max(y for _, y in points))
    digits = _digits(ticks[1] - ticks[0])
    low, span = ticks[0], ticks[-1] - ticks[0]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((value - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / span)

    parts = []
    for value in ticks:
        height = f"{y(value):.1f}"
        parts.append(
            f'<line class="grid-line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.{digits}f}</text>'
        )
    at, ends = ("middle", ()) if first == last else ("start", (last,))
    parts.append(
        f'<text class="tick" x="{x(first):.1f}" y="{HEIGHT - 6}" text-anchor="{at}">{of_x}{first:.4g}</text>'
    )
    for end in ends:
        parts.append(
            f'<text class="tick" x="{x(end):.1f}" y="{HEIGHT - 6}" text-anchor="end">{end:.4g}</text>'
        )
    return x, y, parts


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers, the same step apart, from at most `low` to at least `high`."""
    wanted = ((high - low) or abs(high) or 1.0) / TICKS
    power = 10 ** math.floor(math.log10(wanted))
    step = next(part * power for part in (1, 2, 2.5, 5, 10) if part * power >= wanted * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _digits(step: float) -> int:
    """Return after how many decimals the multiples of a step differ, and are exact: 2 for 0.25."""
    return next((digits for digits in range(12) if math.isclose(step, round(step, digits), rel_tol=1e-6)), 12)


def _short(value: float) -> str:
    """Return a number without more digits than people read, and without an exponent where they write none."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def _figure(said: str, parts: Sequence[str], legend: str) -> str:
    return (
        f'<figure class="chart"><svg role="img" aria-label="{escape(said)}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(parts)}</svg><figcaption>{legend}</figcaption></figure>"
    )


def _plain(name: str) -> str:
    return name.replace("_", " ")
