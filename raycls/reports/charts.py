"""Draws the charts of the model report. Each chart is drawn twice, for a light page and for a dark page.

    chart = reliability(measured)
    chart.light, chart.dark            # PNG

The charts are drawn with matplotlib. The colours follow Okabe and Ito, so colour-blind readers can distinguish them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycls.reports.figures import Figures
from raycls.reports.robustness import Robustness
from raycls.training.curves import Fit
from raycls.training.evaluation import confusion_inches, draw_confusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160  # model_page.html.j2 shows charts at 1/1.6 of their pixels, so they are sharp on a phone
BLUE, ORANGE, GREEN, PINK, RED = "#3a9bd9", "#e69f00", "#1fb286", "#cc79a7", "#e0662a"


@dataclass(frozen=True)
class Theme:
    """The colours of a chart. ground and ink match page.css. full is the colour of a confusion cell with share 1."""

    ground: str
    ink: str
    faint: str
    full: str


LIGHT = Theme("#ffffff", "#1f2328", "#d0d7de", "#0b559f")
DARK = Theme("#161b22", "#e6edf3", "#3d444d", "#1f7fd1")


@dataclass(frozen=True)
class Chart:
    light: bytes
    dark: bytes


def _chart(width: float, height: float, draw: Callable[[Figure, Theme], None]) -> Chart:
    import matplotlib
    from matplotlib.figure import Figure

    def drawn(theme: Theme) -> bytes:
        settings: dict[Any, Any] = {
            "axes.facecolor": theme.ground, "axes.edgecolor": theme.faint, "axes.labelcolor": theme.ink,
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": theme.faint,
            "grid.linewidth": 0.6, "axes.axisbelow": True, "text.color": theme.ink, "xtick.color": theme.ink,
            "ytick.color": theme.ink, "legend.frameon": False, "font.size": 10,
        }  # fmt: skip
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.ground)
            draw(figure, theme)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    return Chart(drawn(LIGHT), drawn(DARK))


def reliability(measured: Figures) -> Chart:
    """Return the reliability chart: accuracy by confidence, also before the temperature, and the number of answers."""

    def draw(figure: Figure, theme: Theme) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        width = measured.reliability[0].high - measured.reliability[0].low
        middles = [(b.low + b.high) / 2 for b in measured.reliability]
        upper.bar(middles, [b.accuracy for b in measured.reliability], 0.92 * width, color=BLUE)
        upper.plot([0, 1], [0, 1], "--", color=theme.ink, linewidth=1, label="perfectly calibrated")
        upper.plot(
            [b.confidence for b in measured.reliability],
            [b.accuracy for b in measured.reliability],
            "o",
            color=ORANGE,
            markersize=4,
            label="mean confidence of the bin",
        )
        upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        lower.bar(middles, [b.images for b in measured.reliability], 0.92 * width, color=BLUE)
        if measured.temperature != 1:
            for axes, values in (
                (upper, [(b.confidence, b.accuracy) for b in measured.reliability_before]),
                (lower, [((b.low + b.high) / 2, b.images) for b in measured.reliability_before]),
            ):
                label = "before the temperature"
                axes.plot(
                    *zip(*values, strict=True), "x--", color=PINK, markersize=4, linewidth=1, label=label
                )
        upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, fontsize=8)
        lower.set(xlabel="confidence", ylabel="images")

    return _chart(5.2, 5.2, draw)


def confusion(measured: Figures) -> Chart:
    """Return the confusion matrix as shares of each true class, with names and counts if there is room."""
    from matplotlib.colors import LinearSegmentedColormap

    names = tuple(each.name for each in measured.classes)
    side = confusion_inches(len(names))

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        colours = LinearSegmentedColormap.from_list("cells", [theme.ground, theme.full])
        draw_confusion(axes, names, measured.confusion, colours=colours, ink=theme.ink)

    return _chart(side, side, draw)


def learning_curves(history: Sequence[dict[str, float]], fit: Fit) -> dict[str, Chart]:
    """Return charts by name: "loss" and "accuracy" by epoch, and "lr" if the run logged the learning rate.

    A star marks the kept weights, measured on training images without augmentation.
    """
    stars = {"loss": fit.train_loss, "accuracy": fit.train_accuracy}
    drawn = {name: _curve(history, name, (fit.epoch, star)) for name, star in stars.items()}
    if all("lr" in row for row in history):
        drawn["lr"] = _curve(history, "lr", None)
    return drawn


def _curve(history: Sequence[dict[str, float]], measure: str, star: tuple[int, float] | None) -> Chart:
    from matplotlib.ticker import MaxNLocator

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        lines = {f"train_{measure}": ("train, augmented", ORANGE), f"val_{measure}": ("val", BLUE)}
        for key, (label, colour) in lines.items() if star is not None else [("lr", (None, GREEN))]:
            points = [(row["epoch"], row[key]) for row in history if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=3, color=colour, label=label)
        if star is not None:
            axes.plot(*star, "*", markersize=11, color=RED, label="train, as they are")
            axes.legend(fontsize=8)
        axes.set(xlabel="epoch", title="learning rate" if measure == "lr" else measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _chart(3.0, 2.7, draw)


def robustness(measured: Robustness) -> Chart:
    """Return the chart of accuracy by strength, with one line per kind of damage."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for row, colour in zip(measured.rows, (BLUE, ORANGE, GREEN, PINK, RED), strict=True):
            values = [measured.clean, *row.accuracies]
            axes.plot(range(len(values)), values, "o-", color=colour, label=row.name)
        axes.set_xticks(range(4), ["none", "light", "medium", "strong"])
        axes.set(ylabel="accuracy", ylim=(0, 1))
        axes.legend(fontsize=8, loc="lower left")

    return _chart(6.4, 3.8, draw)
