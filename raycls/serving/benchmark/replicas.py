"""How fast a model answers, by number of replicas: what `raycls bench` and the demo call.

    results = run(Plan(replicas=(1, 2), connections=(1, 8, 32)))
    results.peak(2).requests_per_s / results.peak(1).requests_per_s

For each count: deploy, wait until every replica runs, then measure. The counts come one after another, so a
machine that slows down during the run favours the first.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

from raycls import cluster, machine, registry
from raycls.data.packed import open_dataset
from raycls.errors import BenchmarkError
from raycls.models.checkpoint import load_card
from raycls.serving import deploy
from raycls.serving.benchmark import server, usage
from raycls.serving.benchmark.images import write_images
from raycls.serving.benchmark.results import Plan, Point, Results

DISTINCT_IMAGES = 1000


def run(
    plan: Plan,
    *,
    model: str | None = None,
    config: Path = Path("serve_config.yaml"),
    port: int | None = None,
    images: Path | None = None,
) -> Results:
    """Serve `model` (default: the champion that was promoted last) with each number of replicas, and measure.

    images is a folder of encoded images (class folders: their names are the true classes); by default 1,000
    PNGs of the test split of the dataset that the model was trained on. A cluster of `raycls up` is used,
    and afterwards serves again what it served; else one is started for this run.

    Raises UnknownModelError, UnknownDatasetError, ConfigError for a config file that is none, ClusterError
    when a deployment does not become ready, BenchmarkError when it answers nothing.
    """
    version = registry.resolve(model)
    points: list[Point] = []
    memory: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        if images is None:
            images = Path(folder)
            card = load_card(registry.checkpoint(version))
            write_images(open_dataset(card.dataset), images, DISTINCT_IMAGES)
        with _deployer(config, version.reference, port) as deployed:
            for count in plan.replicas:
                url = deployed(count)
                points += server.measure(f"{url}/predict", images, plan, replicas=count, head=_head())
                memory[count] = usage.memory_mib(usage.replicas(_head())) / count
    return Results(
        **_circumstances(plan),
        model=version.reference,
        test_accuracy=version.metrics.get("test_accuracy"),
        memory_mib=memory,
        points=points,
    )


def run_at(url: str, plan: Plan, *, images: Path, allow_remote: bool = False) -> Results:
    """Measure the server at url (http://HOST:PORT, whose /predict is loaded); `plan.replicas` is not looked at.

    Raises UsageError for a URL that is none or another machine's, BenchmarkError when it answers nothing.
    """
    running = cluster.status()
    points = server.measure(
        f"{url.rstrip('/')}/predict",
        images,
        plan,
        head=running.pid if running else None,
        allow_remote=allow_remote,
    )
    return Results(
        **_circumstances(plan.model_copy(update={"replicas": ()})),
        model=url,
        test_accuracy=None,
        memory_mib={},
        points=points,
    )


@contextmanager
def _deployer(config: Path, model: str, port: int | None) -> Iterator[Callable[[int], str]]:
    """A function that serves the model with so many replicas and gives the URL, once all of them run."""
    found = cluster.status() is not None
    former = _served(config, port) if found else None

    def deployed(count: int) -> str:
        if cluster.status():
            url = deploy.deploy(config, model=model, port=port, replicas=count)
        else:
            url = deploy.up(config, detach=True, model=model, port=port, replicas=count).url
        deadline = time.monotonic() + 60
        while (alive := len(usage.replicas(_head()))) != count:  # a larger deployment's end a little later
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{alive} replicas run, not {count}")
            time.sleep(0.25)
        return url

    try:
        yield deployed
    finally:
        if not found:
            deploy.down()
        elif former:
            deploy.deploy(config, model=former, port=port)


def _served(config: Path, port: int | None) -> str | None:
    """What the running cluster serves, as NAME/VERSION; None when nothing answers."""
    options = deploy.load(config, port=port)["http_options"]
    try:
        health = requests.get(f"http://{cluster.LOOPBACK}:{options['port']}/health", timeout=5)
        return f"{health.json()['model']['name']}/{health.json()['model']['version']}"
    except (requests.RequestException, ValueError, KeyError):
        return None


def _head() -> int:
    running = cluster.status()
    if running is None:
        raise BenchmarkError("the cluster ended during the measurement")
    return running.pid


def _circumstances(plan: Plan) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(" ", "minutes"),
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "plan": plan,
    }
