"""Compare the speed of one model served by several numbers of replicas. `raycls bench` and the demo call it.

    results = run(Plan(replicas=(1, 2), connections=(1, 8, 32)))
    results.peak(2).requests_per_s / results.peak(1).requests_per_s

For each count it deploys, waits until every replica runs, then measures. The counts are measured one after another.
If the machine becomes slower during the run, the later counts look worse than they are.
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
from raycls.data.versions import open_by_fingerprint
from raycls.errors import BenchmarkError, UsageError
from raycls.models.card import load_card
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.serve_rest import own_serve

DISTINCT_IMAGES = 1000


def check_free() -> None:
    """Raise UsageError where `raycls up` serves a model, which a comparison would replace for its time."""
    serve = own_serve()
    if serve and (former := serve.served()):
        raise UsageError(
            f"`raycls up` serves {former.model} at {former.url}: --yes compares replicas in its place and puts it back "
            "at the end; --url URL --images FOLDER measures it as it is"
        )


def run(
    plan: Plan,
    *,
    model: str | None = None,
    config: Path = Path("serve_config.yaml"),
    port: int | None = None,
    images: Path | None = None,
    restore: bool = True,
) -> Results:
    """Serve `model` (default: the most recent champion) with each number of replicas, and return the measurements.

    images is a folder of encoded images; the names of its subfolders are the true classes. The default is 1,000 PNGs
    of the test split of the model's dataset. If `raycls up` runs a cluster, that cluster is used, and it serves its
    earlier model again at the end (unless restore is False). Otherwise a cluster is started for this run.

    Raises UnknownModelError, UnknownDatasetError, ConfigError for an invalid config file, ClusterError if a deployment
    does not become ready, BenchmarkError if it answers no request.
    """
    version = registry.resolve(model)
    document = ServeConfiguration.read(config).pinned(port=port)
    points: list[Point] = []
    memory: dict[int, float] = {}
    directory, bound_per_s = registry.checkpoint(version), None
    with tempfile.TemporaryDirectory() as folder:
        if images is None:
            images = Path(folder) / "images"
            card = load_card(directory)
            trained_on = open_by_fingerprint(*card.learned_from)
            write_images(trained_on, images, DISTINCT_IMAGES)
        if plan.simulate_forward_ms:
            _simulate(document, plan)
        else:
            with progress.bar("measuring the bound of this machine: one bare process per core"):
                engine = registry.engine_to_serve(version, document.settings.engine)
                bound_per_s = bound.images_per_s(directory, images, engine, seconds=plan.seconds)
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
            bound_per_s=bound_per_s,
        )


def run_at(url: str, plan: Plan, *, images: Path, allow_remote: bool = False) -> Results:
    """Measure /predict of the server at url (http://HOST:PORT). `plan.replicas` has no effect.

    Raises UsageError for an invalid URL or another machine's, BenchmarkError if the server answers no request.
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
    """Make the configuration simulate a slow network, and lower the replicas' CPU share so that all of them fit."""
    document.arguments["simulate_forward_ms"] = plan.simulate_forward_ms
    # During an update, old and new replicas run at the same time.
    document.deployment.setdefault("ray_actor_options", {})["num_cpus"] = 0.5 / max(plan.replicas)


@contextmanager
def _deployer(document: ServeConfiguration, model: str, restore: bool) -> Iterator[Callable[[int], str]]:
    """Yield a function that serves the model with N replicas, waits until all of them run, and returns the URL."""
    serve = own_serve()
    former = serve.served() if serve else None

    def deployed(count: int) -> str:
        counted = document.pinned(model=model, replicas=count)
        url = deploy.deploy(counted) if cluster.status() else deploy.up(counted, detach=True).url
        deadline = time.monotonic() + 60
        while (alive := len(usage.replicas(_head()))) != count:  # surplus replicas need a moment to stop
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{alive} replicas run after 60 s, not {count}")
            time.sleep(0.25)
        return url

    try:
        yield deployed
    finally:
        if serve is None:
            deploy.down()
        elif former and restore:
            deploy.deploy(former)


def _head() -> int:
    running = cluster.status()
    if running is None:
        raise BenchmarkError("the cluster stopped during the measurement")
    return running.pid


def _config(document: ServeConfiguration) -> dict[str, Any]:
    """Return the settings that decide the speed: of the application, of its deployment and of the ingress."""
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
