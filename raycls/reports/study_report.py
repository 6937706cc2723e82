"""Writes the page of `raycls tune show STUDY --report`: the trials of a study, its best result and the time saved.

    write_report("pets-study", Path("pets-study.html"))

Optuna draws most charts with plotly, which makes them interactive. The page contains everything and loads nothing from
the internet.
"""

from __future__ import annotations

import io
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycls import progress, registry
from raycls.errors import RayclsError, StudyError, UsageError
from raycls.metrics import told_calibration
from raycls.reports.templates import environment
from raycls.tuning import record
from raycls.tuning.pareto import pareto_front
from raycls.tuning.spec import Trial

if TYPE_CHECKING:
    import optuna
    from plotly.graph_objects import Figure

LATENCY = "latency, ms"
GREY, BLUE, RED = "#8c959f", "#3a9bd9", "#e0662a"


def write_report(study_name: str, output: Path) -> Path:
    """Write the page to `output` and return `output`.

    Raises StudyError if the study does not exist or has no result yet. Raises UsageError if `output` is not a file in
    an existing folder. Raises RayclsError if the page cannot be written.
    """
    if not output.parent.is_dir() or output.is_dir():
        raise UsageError(f"--output {output} is no file in a folder that exists")
    study = record.load(study_name)
    trials, winner = record.trials_of(study), record.winner_of(study)
    if not any(trial.scored for trial in trials):
        raise StudyError(f"no trial of study {study_name} has ended well yet: there is nothing to show")
    with progress.bar(f"drawing {study_name}"):
        html = _render(study, trials, winner)
    try:
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RayclsError(f"cannot write the report {output}: {error.strerror}; choose --output") from None
    return output


def pareto_png(trials: Sequence[Trial], chosen: Trial) -> bytes:
    """Return a PNG of accuracy against latency: every trial, the Pareto front and the chosen trial."""
    from matplotlib.figure import Figure

    front = pareto_front(trials)
    scored = [trial for trial in trials if trial.scored]
    figure = Figure(figsize=(6, 4), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.scatter(*_places(scored), color=GREY, s=18, label="trials")
    axes.plot(*_places(front), "o-", color=BLUE, label="Pareto front")
    axes.scatter(*_places([chosen]), marker="*", s=180, color=RED, zorder=3, label="chosen")
    axes.set(xlabel=f"{LATENCY} of a forward pass", ylabel=_axis(trials))
    axes.grid(color="#d0d7de", linewidth=0.6)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _pareto(trials: Sequence[Trial], winner: Trial | None) -> Figure:
    """Return the chart of `pareto_png` as an interactive figure. It names the trial under the pointer."""
    from plotly.graph_objects import Figure, Scatter

    marks = [
        ([trial for trial in trials if trial.scored], "trials", "markers", {"color": GREY, "size": 7}),
        (pareto_front(trials), "Pareto front", "lines+markers", {"color": BLUE, "size": 8}),
        ([winner] if winner else [], "chosen", "markers", {"color": RED, "size": 16, "symbol": "star"}),
    ]
    figure = Figure()
    for shown, name, mode, marker in marks:
        latency, accuracy = _places(shown)
        text = [f"#{trial.number}  {trial.told()}" for trial in shown]
        figure.add_trace(Scatter(x=latency, y=accuracy, mode=mode, name=name, marker=marker, text=text))
    figure.update_layout(xaxis_title=f"{LATENCY} of a forward pass", yaxis_title=_axis(trials))
    return figure


def _places(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    """Return the latencies in ms and the scores, which are in percent unless they are losses."""
    scores = [(trial.score or 0.0) * (1 if trial.metric.endswith("_loss") else 100) for trial in trials]
    return [trial.latency_ms or 0.0 for trial in trials], scores


def _name(trials: Sequence[Trial]) -> str:
    """Return the name of the scores in charts: that of the metric, with a minus for a loss."""
    metric = trials[0].metric
    return f"-{metric}" if metric.endswith("_loss") else metric


def _axis(trials: Sequence[Trial]) -> str:
    name = _name(trials)
    return name if name.startswith("-") else f"{name}, %"


def saving(trials: Sequence[Trial]) -> tuple[float, float]:
    """Return the seconds of training that early stopping saved, and their share of the time without early stopping.

    The remaining time of a stopped trial is estimated from its own seconds per epoch.
    """
    longest = max((trial.epochs for trial in trials), default=0)
    stopped = [trial for trial in trials if trial.state == "stopped early" and trial.epochs]
    saved = sum(trial.seconds / trial.epochs * (longest - trial.epochs) for trial in stopped)
    spent = sum(trial.seconds for trial in trials)
    return saved, saved / max(saved + spent, 1e-9)


def in_short(trials: Sequence[Trial], winner: Trial | None) -> list[str]:
    """Return the sentences of the page's summary. winner is the trial that was chosen for the full training."""
    counts = Counter(trial.state for trial in trials)
    scored = [trial for trial in trials if trial.scored]
    best = max(scored, key=lambda trial: trial.score or 0.0)
    told = [f"The best trial is #{best.number} ({best.told()}): {best.told_score}."]
    given = next((trial for trial in scored if trial.given and trial is not best), None)
    if given:
        told.append(f"Trial #{given.number}, the configuration as it was given, has {given.told_score}.")
    if counts["stopped early"]:
        seconds, share = saving(trials)
        told.append(
            f"{counts['stopped early']} of {len(trials)} trials were stopped early, which saved about "
            f"{seconds:.0f} s of training, {share:.0%} of what all trials to their end would have taken."
        )
    failed = [trial for trial in trials if trial.state == "failed"]
    told += [f"Trial #{trial.number} ({trial.told()}) failed: {trial.reason}." for trial in failed[:5]]
    front = pareto_front(trials)
    if front:
        told.append(
            f"The Pareto front has {len(front)} points, from {front[0].told_score} in {front[0].latency_ms:.2f} ms "
            f"to {front[-1].told_score} in {front[-1].latency_ms:.2f} ms."
        )
    if winner:
        told.append(f"Trial #{winner.number} was chosen to be trained in full.")
    return told


def _registered(study: str, winner: Trial) -> list[str]:
    """Return what is known of the confidences of the version that the winner became."""
    version = registry.of_study(study, winner.number)
    told = told_calibration(version.metrics, "test") if version else ""
    return (
        [f"It became {version.reference}; its calibration error on test: {told}."] if version and told else []
    )


def _render(study: optuna.Study, trials: Sequence[Trial], winner: Trial | None) -> str:
    import plotly.io

    drawn: list[tuple[str, str, str]] = []
    for title, explanation, figure in _figures(study, trials, winner):
        library = not drawn  # the first figure contains the code of plotly
        # Figures are as wide as the page. Optuna sets a width that grows with the number of settings.
        margin = {"t": 20, "l": 60, "r": 20, "b": 60}
        figure.update_layout(template="plotly_white", title=None, width=None, autosize=True, margin=margin)
        html = plotly.io.to_html(
            figure, full_html=False, include_plotlyjs=library, config={"responsive": True}
        )
        drawn.append((title, explanation, html))
    seconds = [trial.seconds for trial in trials if trial.seconds]
    return (
        environment()
        .get_template("study_page.html.j2")
        .render(
            study=study.study_name,
            trials=trials,
            paths=list(dict.fromkeys(path for trial in trials for path in trial.values)),
            in_short=[*in_short(trials, winner), *(_registered(study.study_name, winner) if winner else [])],
            figures=drawn,
            median_seconds=statistics.median(seconds) if seconds else 0.0,
            total_seconds=sum(seconds),
            counts=Counter(trial.state for trial in trials),
            made=time.strftime("%Y-%m-%d %H:%M"),
        )
    )


def _figures(
    study: optuna.Study, trials: Sequence[Trial], winner: Trial | None
) -> list[tuple[str, str, Figure]]:
    """Return (title, explanation, figure) for each chart that these trials have data for."""
    from optuna import visualization as draw

    two = len(study.directions) > 1
    target: dict[str, Any] = {"target_name": _name(trials)}
    if two:
        target["target"] = lambda trial: trial.values[0]
    ended = sum(trial.state == "done" for trial in trials)
    wanted: list[tuple[str, str, bool, Callable[[], Figure]]] = [
        (
            "Accuracy against latency",
            "Every trial, the Pareto front of those that no other beats in both, and the one that was chosen.",
            two,
            lambda: _pareto(trials, winner),
        ),
        (
            "Trial by trial",
            "The score of each trial that was trained to its end, and the best so far.",
            True,
            lambda: draw.plot_optimization_history(study, **target),
        ),
        (
            "What matters",
            "How much of the spread of the score each setting explains.",
            ended >= 4,
            # Optuna minimises a custom target, so the score is negated.
            lambda: draw.plot_param_importances(
                study, target_name=_name(trials), target=(lambda trial: -trial.values[0]) if two else None
            ),
        ),
        (
            "Setting by setting",
            "The score against each setting; darker points were tried later.",
            True,
            lambda: draw.plot_slice(study, **target),
        ),
        (
            "All settings together",
            "One line per trial; drag along an axis to pick some.",
            True,
            lambda: draw.plot_parallel_coordinate(study, **target),
        ),
        (
            "Epoch by epoch",
            "The score while the trials ran. A line that ends early was stopped.",
            not two,
            lambda: draw.plot_intermediate_values(study),
        ),
        (
            "When each trial ran",
            "From when it was asked for to its end.",
            True,
            lambda: draw.plot_timeline(study),
        ),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks some of these functions as experimental
        return [(title, told, make()) for title, told, possible, make in wanted if possible]
