"""Shows a study while it runs: a live table on a terminal, or a line per ended trial in a log.

with Display("pets-study", spec, record.trials()) as display:
    display.began(trial)
    display.epoch(3, {"epoch": 1, "val_accuracy": 0.81, …})
    display.ended(trial)
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from types import TracebackType

from rich import box
from rich.live import Live
from rich.table import Table

from raycls import progress
from raycls.tuning.spec import StudySpec, Trial, shown

SUMMARY_S = 30.0  # least time between two summary lines in a log
SHOWN = 8  # best trials in the live table


class Display:
    """Holds the last known state of every trial. `trials` are the trials of earlier attempts at the study."""

    def __init__(self, name: str, spec: StudySpec, trials: tuple[Trial, ...]):
        self._name, self._spec = name, spec
        self._trials = {trial.number: trial for trial in trials if trial.state not in ("waiting", "running")}
        self._running: dict[int, tuple[Trial, dict[str, float], float]] = {}
        self._seconds: list[float] = []  # the duration of each trial that ended in this attempt
        self._said = time.monotonic()
        self._live = Live(console=progress.console, transient=True) if sys.stderr.isatty() else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        before = f", {len(self._trials)} of them already ended" if self._trials else ""
        progress.say(
            f"study {self._name}: {self._spec.trials} trials of up to {self._spec.max_epochs} epochs{before}"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        progress.say(f"study {self._name}: {self.summary()}")

    def began(self, trial: Trial) -> None:
        self._running[trial.number] = (trial, {}, time.monotonic())
        self._refresh()

    def epoch(self, number: int, metrics: dict[str, float]) -> None:
        trial, _, since = self._running[number]
        self._running[number] = (trial, metrics, since)
        self._refresh()

    def ended(self, trial: Trial) -> None:
        _, _, since = self._running.pop(trial.number)
        self._seconds.append(time.monotonic() - since)
        self._trials[trial.number] = trial
        score = trial.reason or trial.told_score
        after = f" after {trial.epochs} epoch{'s' if trial.epochs != 1 else ''}" if trial.epochs else ""
        progress.say(
            f"  trial {len(self._trials)}/{self._spec.trials}  #{trial.number}  {trial.told()}  {score}{after}, "
            f"{trial.state}"
        )
        self._refresh()

    def summary(self) -> str:
        """Return the study in one line: the number of trials in each state, the best score and the time left."""
        counts = Counter(trial.state for trial in self._trials.values())
        told = [f"{len(self._running)} running"] if self._running else []
        told += [f"{counts[state]} {state}" for state in ("done", "stopped early", "failed") if counts[state]]
        if best := self._best():
            told.append(f"best {best[0].told_score}")
        left = self._left()
        return ", ".join([*told, *([f"about {left} left"] if left else [])]) or "starting"

    def _best(self) -> list[Trial]:
        scored = [trial for trial in self._trials.values() if trial.scored]
        return sorted(scored, key=lambda trial: -(trial.score or 0.0))

    def _left(self) -> str:
        waiting = self._spec.trials - len(self._trials)
        if not self._seconds or not self._running or waiting <= 0:
            return ""
        seconds = statistics.mean(self._seconds) * waiting / len(self._running)
        return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"

    def _refresh(self) -> None:
        if self._live:
            self._live.update(self._table())
        elif time.monotonic() - self._said > SUMMARY_S:
            self._said = time.monotonic()
            progress.say(f"  … {self.summary()}")

    def _table(self) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, title=f"{self._name}: {self.summary()}", title_justify="left"
        )
        settings = (path.split(".")[1] for path in self._spec.space)
        latency = ("latency_ms",) if self._spec.timed else ()
        for column in ("trial", "state", *settings, *latency, "epoch", self._spec.metric):
            table.add_column(column, justify="left" if column in ("trial", "state") else "right")
        for trial, metrics, _ in self._running.values():
            score = f"{metrics[self._spec.metric]:.4f}" if metrics else ""
            self._row(
                table, trial, "running", f"{int(metrics.get('epoch', 0))}/{self._spec.max_epochs}", score
            )
        for trial in self._best()[:SHOWN]:
            self._row(table, trial, trial.state, str(trial.epochs), shown(trial.metric, trial.score))
        return table

    def _row(self, table: Table, trial: Trial, state: str, epochs: str, score: str) -> None:
        values = [trial.values.get(path) for path in self._spec.space]
        if self._spec.timed:
            values.append(trial.latency_ms)
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(str(trial.number), state, *shown, epochs, score)
