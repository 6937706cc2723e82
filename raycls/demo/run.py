"""The demo: data, tuning, training, serving and a load test in one run, for `make demo` and `raycls demo`.

    run(Path("serve_config.yaml"))

Each part calls the function that the command of the same name calls; this module does not know how a part works. The
first prediction comes as early as possible: the study's page, the choice of the engine and the load test follow it. One
cluster serves all parts. It is stopped at the end, also after an error.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from raycls import cluster, home, progress
from raycls.benchmark import replicas as benchmark
from raycls.benchmark import report as benchmark_report
from raycls.benchmark.results import Plan
from raycls.cluster.environment import port_in_use
from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.prepare import prepare
from raycls.demo.report import SENT_IMAGES, Demo, counted, write_report
from raycls.errors import ClusterError, SourceError
from raycls.serving.client.predict import over_http
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration
from raycls.training.filing import TrainingResult
from raycls.training.presets import preset
from raycls.tuning.plan import plan
from raycls.tuning.space import Domain, Space
from raycls.tuning.study import tune

# Two fifths more epochs than the preset: CIFAR-10's test accuracy is then above 87%, whichever trial wins.
PRESET, EPOCHS = "quick", 1.4
TRIALS, TRIAL_EPOCHS, TRIAL_IMAGES = 8, 2, 4500
LOAD = Plan(replicas=(1, 2), connections=(1, 32), rates=(), seconds=3, repeats=1)


class Parts:
    """The seconds of each part of the demo by its name, in order. Prints one line at the end of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    @property
    def total(self) -> float:
        """Seconds since the start of the demo."""
        return time.monotonic() - self._started

    def end(self, part: str, result: str) -> None:
        seconds = self.total - sum(self.seconds.values())
        self.seconds[part] = seconds
        progress.say(f"=== {part}: {result} ({seconds:.0f} s)")


class Answers(NamedTuple):
    """The server's answers to SENT_IMAGES test images: when the first came (s after the start), and the accuracy."""

    first_after: float
    accuracy: float


def run(config: Path, *, dataset_name: str | None = None, port: int | None = None) -> Demo:
    """Run all parts on CIFAR-10, or on scikit-learn's digits (with a warning) if CIFAR-10 cannot be downloaded.

    Raises ClusterError if the port is in use, and what the parts raise. The cluster is stopped first.
    """
    document = ServeConfiguration.read(config).pinned(port=port, replicas=1)
    if port_in_use(document.port, document.host):
        raise ClusterError(
            f"port {document.port} is in use by another program: choose another with --port, or stop it"
        )
    parts = Parts()
    dataset = prepare(dataset_name) if dataset_name else _dataset()
    info = dataset.info
    counts = ", ".join(f"{count:,} {split}" for split, count in info.counts.items())
    parts.end("data", f"{info.name}, {len(info.classes)} classes, {counts} images")
    config_of_winner = _configuration(dataset)
    answers: list[Answers] = []
    with _cluster():
        parts.end("cluster", "Ray is running")
        study = plan(
            info.name,
            config_of_winner,
            trials=TRIALS,
            max_epochs=TRIAL_EPOCHS,
            space=_space(config_of_winner),
        )
        outcome = tune(study, trained=lambda done: answers.append(_serve(done, document, dataset, parts)))
        training = outcome.training
        assert training.version is not None
        champion = "is the champion" if outcome.promoted else "is not promoted"
        parts.end("promotion", f"{training.version.reference} {champion}")
        serving = benchmark.run(
            LOAD, model=training.version.reference, config=config, port=port, restore=False
        )
        peaks = [serving.peak(count) for count in serving.counts]
        parts.end(
            "load test",
            ", ".join(f"{counted(p.replicas, 'replica')} {p.requests_per_s:,.0f} requests/s" for p in peaks),
        )
    directory = home.home() / "demo"
    page = benchmark_report.write(serving, directory)[0]
    demo = Demo(
        dataset=info.name,
        study=outcome.study,
        training=training,
        promoted=outcome.promoted,
        first_prediction=answers[0].first_after,
        http_accuracy=answers[0].accuracy,
        serving=serving,
        report=directory / "report.md",
        benchmark_page=page,
        parts=parts.seconds,
        seconds=parts.total,
    )
    write_report(demo)
    return demo


def _configuration(dataset: PackedDataset) -> Config:
    """Return the winner's configuration before the search. Trials train on TRIAL_IMAGES of the images."""
    base = preset(PRESET, dataset.info)
    fraction = min(1.0, TRIAL_IMAGES / dataset.info.counts["train"])
    epochs = round(EPOCHS * base.training.epochs)
    return override(base, [f"training.train_fraction={fraction}", f"training.epochs={epochs}"])


def _space(config: Config) -> Space:
    """Return the search space: batch size, learning rate and dropout in ranges that suit a short training.

    A short trial prefers small batches, which make more steps, and in a whole training only cost time. The winner's
    learning rate is divided by about three for its longer training, so that the range begins at the preset's.
    """
    batch_size, lr = config.training.batch_size, config.optim.lr
    return {
        "training.batch_size": Domain(low=batch_size // 2, high=batch_size, log=True),
        "optim.lr": Domain(low=lr, high=4 * lr, log=True),
        "network.dropout": Domain(low=0.0, high=0.1),
    }


def _dataset() -> PackedDataset:
    """Return CIFAR-10, or digits with a warning if no source delivers CIFAR-10."""
    try:
        return prepare("cifar10")
    except SourceError as error:
        progress.say(f"!!! CIFAR-10 cannot be downloaded: {error}")
        progress.say("!!! The demo uses scikit-learn's digits instead: 1,797 images of 8×8 pixels.")
        progress.say("!!! The accuracy and the speed on digits say nothing about CIFAR-10.")
        return prepare("digits")


@contextmanager
def _cluster() -> Iterator[None]:
    """Start a cluster for the demo, with this process as its driver, and stop it at the end."""
    import ray

    cluster.start()
    try:
        yield
    finally:
        ray.shutdown()
        deploy.down()


def _serve(
    training: TrainingResult, document: ServeConfiguration, dataset: PackedDataset, parts: Parts
) -> Answers:
    """Serve the trained model and send the first test images as PNG over HTTP, one by one."""
    assert training.version
    accuracy = f"test accuracy {training.metrics['test_accuracy']:.1%}"
    parts.end("search and training", f"{training.version.reference}, {accuracy}")
    url = deploy.deploy(document.pinned(model=training.version.reference))
    images, labels = dataset.images("test"), dataset.labels("test")
    count = min(SENT_IMAGES, len(labels))
    first_after, correct = 0.0, 0
    for pixels, label in zip(images[:count], labels[:count], strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        answer = over_http(url, buffer.getvalue())
        correct += answer["class_index"] == label
        if not first_after:
            first_after = parts.total
            wanted, named = dataset.info.classes[label], answer["class_name"]
            parts.end(
                "first prediction",
                f"an image of class {wanted} is {named} for {url}/predict, {first_after:.0f} s after the start",
            )
    progress.say(f"{correct} of {count} test images are classified correctly over HTTP")
    return Answers(first_after, correct / count)
