"""The whole of raycls in one go: data, tuning, training, serving, benchmark. What `make demo` and `raycls demo` run.

    run(Path("serve_config.yaml"))

Every step is the function that the command of the same name calls; nothing here knows how a step works. One cluster
serves them all, and is stopped at the end, however it ends.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from raycls import cluster, home, progress
from raycls.benchmark import replicas as benchmark
from raycls.benchmark import report as benchmark_report
from raycls.benchmark.results import Plan, Results
from raycls.config import override, preset
from raycls.data.packed import PackedDataset
from raycls.data.sources import prepare
from raycls.errors import SourceError
from raycls.serving.client.predict import over_http
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration
from raycls.training.evaluation import confusion_png
from raycls.training.trainer import TrainingResult
from raycls.tuning.plan import plan
from raycls.tuning.study import Study, tune

TRIALS, TRIAL_EPOCHS, TRIAL_IMAGES = 8, 2, 6750
SENT_IMAGES = 200


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo made and measured. http_accuracy is over SENT_IMAGES test images sent one by one."""

    dataset: str
    study: Study
    training: TrainingResult
    promoted: bool
    http_accuracy: float
    serving: Results
    report: Path
    benchmark_page: Path
    seconds: float

    def rows(self) -> list[tuple[str, str]]:
        """The table that is printed at the end and stands in the report."""
        rows = [
            ("dataset", self.dataset),
            ("trials", f"{len(self.study.trials)}, the best with {self.study.best.told()}"),
            ("validation accuracy", f"{self.training.metrics['val_accuracy']:.1%}"),
            ("test accuracy", f"{self.training.metrics['test_accuracy']:.1%}"),
            (f"accuracy over HTTP, {SENT_IMAGES} test images", f"{self.http_accuracy:.1%}"),
        ]
        for point in self.serving.points:
            p50, p99 = point.spread("p50_ms"), point.spread("p99_ms")
            load = f"{_counted(point.replicas, 'replica')}, {_counted(point.connections, 'connection')}"
            speedup = self.serving.speedup(point)
            told = f"{point.requests_per_s:,.0f} requests/s"
            if p50 and p99:
                told += f", p50 {p50.median:.1f} ms, p99 {p99.median:.1f} ms"
            if speedup and point.replicas != self.serving.counts[0]:
                told += f", {speedup:.2f} × one replica"
            if point.errors:
                told += f", {sum(point.errors.values())} errors"
            rows.append((load, told))
        return rows

    def as_json(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "trials": len(self.study.trials),
            "study": self.study.name,
            "best": self.study.best.values,
            **self.training.metrics,
            "run_id": self.training.run_id,
            "promoted": self.promoted,
            "http_accuracy": self.http_accuracy,
            "serving": self.serving.as_json(),
            "report": str(self.report),
            "benchmark": str(self.benchmark_page),
            "seconds": self.seconds,
        }


def run(config: Path, *, dataset_name: str | None = None, port: int | None = None) -> Demo:
    """All steps, on CIFAR-10 or, when no source delivers it, on scikit-learn's digits, which is said loudly.

    Raises what the steps raise; the cluster is stopped first.
    """
    started = time.monotonic()
    dataset = prepare(dataset_name) if dataset_name else _dataset()
    manifest = dataset.manifest
    base = preset("fast", manifest)
    fraction = min(1.0, TRIAL_IMAGES / manifest.counts["train"])
    brief = override(base, [f"training.train_fraction={fraction}"])
    with _cluster():
        outcome = tune(plan(manifest.name, brief, trials=TRIALS, max_epochs=TRIAL_EPOCHS))
        training = outcome.training
        assert training.version is not None
        load = Plan(replicas=(1, 2), connections=(1, 32), rates=(), seconds=3, repeats=1)
        serving = benchmark.run(
            load, model=training.version.reference, config=config, port=port, restore=False
        )
        http_accuracy = _send_test_images(ServeConfiguration.read(config).pinned(port=port).url, dataset)
    directory = home.home() / "demo"
    page = benchmark_report.write(serving, directory)[0]
    demo = Demo(
        dataset=manifest.name,
        study=outcome.study,
        training=training,
        promoted=outcome.promoted,
        http_accuracy=http_accuracy,
        serving=serving,
        report=directory / "report.md",
        benchmark_page=page,
        seconds=time.monotonic() - started,
    )
    _write_report(demo)
    return demo


def _dataset() -> PackedDataset:
    try:
        return prepare("cifar10")
    except SourceError as error:
        progress.say(f"!!! CIFAR-10 could not be had: {error}")
        progress.say("!!! The demo goes on with scikit-learn's digits instead: 1,797 images of 8×8 pixels.")
        progress.say("!!! Its accuracy and its speed say nothing about CIFAR-10.")
        return prepare("digits")


@contextmanager
def _cluster() -> Iterator[None]:
    """A cluster of its own for the demo, whose driver is this process; both ends are tidied up."""
    import ray

    cluster.start()
    try:
        yield
    finally:
        ray.shutdown()
        deploy.down()


def _send_test_images(url: str, dataset: PackedDataset) -> float:
    """Send the first test images as PNG over HTTP, one by one; the share that was recognised."""
    images, labels = dataset.images("test"), dataset.labels("test")
    count = min(SENT_IMAGES, len(labels))
    correct = 0
    with progress.bar(f"sending {count} test images to {url}", total=count) as bar:
        for pixels, label in zip(images[:count], labels[:count], strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG")
            correct += over_http(url, buffer.getvalue())["class_index"] == label
            bar.advance()
    return correct / count


def _write_report(demo: Demo) -> None:
    """One Markdown page beside the benchmark's: the table, the trials, the confusion matrix, accuracy per class."""
    name = demo.dataset
    picture = demo.report.with_name("confusion_matrix.png")
    picture.write_bytes(confusion_png(demo.training.evaluation, f"{name}, test split"))
    trials = [
        (str(trial.number), trial.told(), trial.state, str(trial.epochs), _score(trial.val_accuracy))
        for trial in demo.study.trials
    ]
    classes = [(label, f"{value:.4f}") for label, value in demo.training.evaluation.class_accuracy.items()]
    sections = [
        f"# raycls demo on {name}",
        _markdown_table(("", ""), demo.rows()),
        f"Study `{demo.study.name}`, MLflow run `{demo.study.run_id}`; training run `{demo.training.run_id}`.",
        f"The load test is described in [{demo.benchmark_page.name}]({demo.benchmark_page.name}).",
        "## Trials",
        _markdown_table(("trial", "values", "state", "epochs", "val_accuracy"), trials),
        "## Test accuracy by class",
        _markdown_table(("class", "accuracy"), classes),
        f"![confusion matrix]({picture.name})",
    ]
    demo.report.write_text("\n\n".join(sections) + "\n")


def _counted(count: int | None, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _score(accuracy: float | None) -> str:
    return "failed" if accuracy is None else f"{accuracy:.4f}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
