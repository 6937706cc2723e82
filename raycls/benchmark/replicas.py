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

from raycls import cluster, machine, progress, registry
from raycls.benchmark import bound, one_server, usage
from raycls.benchmark.images import write_images
from raycls.benchmark.results import Plan, Point, Results
from raycls.cluster.environment import environment
from raycls.data.packed import open_dataset
from raycls.engines.build import to_serve
from raycls.errors import BenchmarkError
from raycls.models.card import load_card
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration

DISTINCT_IMAGES = 1000


def run(
    plan: Plan,
    *,
    model: str | None = None,
    config: Path = Path("serve_config.yaml"),
    port: int | None = None,
    images: Path | None = None,
    restore: bool = True,
) -> Results:
    """Serve `model` (default: the champion that was promoted last) with each number of replicas, and measure.

    images is a folder of encoded images (class folders: their names are the true classes); by default 1,000
    PNGs of the test split of the dataset that the model was trained on. A cluster of `raycls up` is used,
    and afterwards (unless restore is False) serves again what it served; else one is started for this run.

    Raises UnknownModelError, UnknownDatasetError, ConfigError for a config file that is none, ClusterError
    when a deployment does not become ready, BenchmarkError when it answers nothing.
    """
    version = registry.resolve(model)
    document = ServeConfiguration.read(config).pinned(port=port)
    points: list[Point] = []
    memory: dict[int, float] = {}
    directory, reached = registry.checkpoint(version), None
    with tempfile.TemporaryDirectory() as folder:
        if images is None:
            images = Path(folder) / "images"
            write_images(open_dataset(load_card(directory).dataset), images, DISTINCT_IMAGES)
        if plan.simulate_forward_ms:
            _simulate(document, plan)
        else:
            with progress.bar("measuring the bound: bare processes, one on each core"):
                engine = to_serve(document.settings.engine, version.engine)
                reached = bound.measure(directory, images, engine, seconds=plan.seconds).images_per_s
        with _deployer(document, version.reference, restore) as deployed:
            for count in plan.replicas:
                url = deployed(count)
                points += one_server.measure(f"{url}/predict", images, plan, replicas=count, head=_head())
                memory[count] = usage.memory_mib(usage.replicas(_head())) / count
        return Results(
            **_circumstances(plan),
            config=_config(document),
            model=version.reference,
            test_accuracy=version.metrics.get("test_accuracy"),
            memory_mib=memory,
            points=points,
            bound_per_s=reached,
        )


def run_at(url: str, plan: Plan, *, images: Path, allow_remote: bool = False) -> Results:
    """Measure the server at url (http://HOST:PORT, whose /predict is loaded); `plan.replicas` is not looked at.

    Raises UsageError for a URL that is none or another machine's, BenchmarkError when it answers nothing.
    """
    running = cluster.status()
    points = one_server.measure(
        f"{url.rstrip('/')}/predict",
        images,
        plan,
        head=running.pid if running else None,
        allow_remote=allow_remote,
    )
    return Results(
        **_circumstances(plan.model_copy(update={"replicas": ()})),
        config={},
        model=url,
        test_accuracy=None,
        memory_mib={},
        points=points,
    )


def _simulate(document: ServeConfiguration, plan: Plan) -> None:
    """Put the slow network into the document, and room for as many replicas as are planned."""
    document.arguments["simulate_forward_ms"] = plan.simulate_forward_ms
    # An update has twice as many for a while.
    document.deployment.setdefault("ray_actor_options", {})["num_cpus"] = 0.5 / max(plan.replicas)


@contextmanager
def _deployer(document: ServeConfiguration, model: str, restore: bool) -> Iterator[Callable[[int], str]]:
    """A function that serves the model with so many replicas and gives the URL, once all of them run."""
    running = cluster.status()
    former = deploy.served(running) if running else None

    def deployed(count: int) -> str:
        counted = document.pinned(model=model, replicas=count)
        url = deploy.deploy(counted) if cluster.status() else deploy.up(counted, detach=True).url
        deadline = time.monotonic() + 60
        while (alive := len(usage.replicas(_head()))) != count:  # a larger deployment's end a little later
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{alive} replicas run, not {count}")
            time.sleep(0.25)
        return url

    try:
        yield deployed
    finally:
        if running is None:
            deploy.down()
        elif former and restore:
            deploy.deploy(former)


def _head() -> int:
    running = cluster.status()
    if running is None:
        raise BenchmarkError("the cluster ended during the measurement")
    return running.pid


def _config(document: ServeConfiguration) -> dict[str, Any]:
    """What decides the speed: the application's arguments, the deployment's limits, the ingress's environment."""
    measured = {
        key: value
        for key, value in document.deployment.items()
        if not isinstance(value, dict) and key != "name"
    }
    ingress = {
        key: value.partition("\n")[0] for key, value in environment().items() if key.startswith("RAY_SERVE")
    }
    return {**document.arguments, **measured, **ingress}


def _circumstances(plan: Plan) -> dict[str, Any]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "plan": plan,
    }
