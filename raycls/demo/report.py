"""The result of the demo, the table that the command prints, and the report (Markdown).

demo.rows(), demo.as_json()
write_report(demo)                # $RAYCLS_HOME/demo/report.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycls.benchmark.results import Results
from raycls.metrics import told_calibration
from raycls.training.evaluation import confusion_png
from raycls.training.filing import TrainingResult
from raycls.tuning.spec import shown
from raycls.tuning.study import Study

SENT_IMAGES = 200  # test images that are sent to the server one by one


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo made and measured.

    http_accuracy is the share of SENT_IMAGES test images that the server classified correctly. first_prediction is the
    time from the start to the first answer over HTTP, s.
    """

    dataset: str
    study: Study
    training: TrainingResult
    promoted: bool
    first_prediction: float
    http_accuracy: float
    serving: Results
    report: Path
    benchmark_page: Path
    parts: dict[str, float]
    seconds: float

    def rows(self) -> list[tuple[str, str]]:
        """Return the table that the command prints at the end and the report contains."""
        rows = [
            ("dataset", self.dataset),
            ("trials", f"{len(self.study.trials)}, the best with {self.study.best.told()}"),
            ("validation accuracy", f"{self.training.metrics['val_accuracy']:.1%}"),
            ("test accuracy", f"{self.training.metrics['test_accuracy']:.1%}"),
            ("calibration error, test", told_calibration(self.training.metrics, "test")),
            ("first prediction over HTTP", f"after {self.first_prediction:.0f} s"),
            (f"accuracy over HTTP, {SENT_IMAGES} test images", f"{self.http_accuracy:.1%}"),
        ]
        for point in self.serving.points:
            p50, p99 = point.spread("p50_ms"), point.spread("p99_ms")
            load = f"{counted(point.replicas, 'replica')}, {counted(point.connections, 'connection')}"
            speedup = self.serving.speedup(point)
            measured = f"{point.requests_per_s:,.0f} requests/s"
            if p50 and p99:
                measured += f", p50 {p50.median:.1f} ms, p99 {p99.median:.1f} ms"
            if speedup and point.replicas != self.serving.counts[0]:
                measured += f", {speedup:.2f} × one replica"
            if point.errors:
                measured += f", {sum(point.errors.values())} errors"
            rows.append((load, measured))
        return rows + [(f"time of {part}", f"{seconds:.0f} s") for part, seconds in self.parts.items()]

    def as_json(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "trials": len(self.study.trials),
            "study": self.study.name,
            "best": self.study.best.values,
            **self.training.metrics,
            "run_id": self.training.run_id,
            "promoted": self.promoted,
            "first_prediction_seconds": self.first_prediction,
            "http_accuracy": self.http_accuracy,
            "serving": self.serving.as_json(),
            "report": str(self.report),
            "benchmark": str(self.benchmark_page),
            "part_seconds": self.parts,
            "seconds": self.seconds,
        }


def write_report(demo: Demo) -> None:
    """Write the report (Markdown): the table, the trials, the accuracy of each class and the confusion matrix."""
    name = demo.dataset
    picture = demo.report.with_name("confusion_matrix.png")
    picture.write_bytes(confusion_png(demo.training.evaluation, f"{name}, test split"))
    trials = [
        (
            str(trial.number),
            trial.told(),
            trial.state,
            str(trial.epochs),
            shown(trial.metric, trial.score) or "failed",
        )
        for trial in demo.study.trials
    ]
    classes = [(label, f"{value:.4f}") for label, value in demo.training.evaluation.class_accuracy.items()]
    sections = [
        f"# raycls demo on {name}",
        _markdown_table(("", ""), demo.rows()),
        f"Study `{demo.study.name}`, MLflow run `{demo.study.run_id}`; training run `{demo.training.run_id}`.",
        f"The load test has its own page: [{demo.benchmark_page.name}]({demo.benchmark_page.name}).",
        "## Trials",
        _markdown_table(("trial", "values", "state", "epochs", demo.study.spec.metric), trials),
        "## Test accuracy by class",
        _markdown_table(("class", "accuracy"), classes),
        f"![confusion matrix]({picture.name})",
    ]
    demo.report.write_text("\n\n".join(sections) + "\n")


def counted(count: int | None, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
