"""Serve a copy of a model on its own cluster, so that a benchmark can update, break and kill it.

    with stage("cifar10", config, replicas=2) as server, server.under_load(rate=250, seconds=20) as sample:
        server.replicas()[0].kill()
    sample.result().errors

The copy is in a temporary RAYCLS_HOME. The user's own registry and cluster are not touched; the dataset is only read.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.broken_versions import Change
from raycls import cluster, home, local_http, registry, tracking
from raycls.benchmark import usage
from raycls.benchmark.images import write_images
from raycls.benchmark.load import Load, LoadGenerator, Sample
from raycls.cluster.environment import free_port
from raycls.cluster.processes import psutil
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError
from raycls.models.card import load_card
from raycls.registry import ModelVersion
from raycls.serving.control import deploy
from raycls.serving.control.configuration import DEPLOYMENT, ServeConfiguration
from raycls.serving.control.serve_rest import Serve

IMAGES = 500
LEAD_S = 2.0  # seconds of load before the disturbance


def _nothing(directory: Path) -> None:
    pass


@dataclass(frozen=True)
class Server:
    """The served copy. version is the champion of the temporary home; images is a folder of images to send."""

    version: ModelVersion
    url: str
    images: Path

    def again(self, change: Change = _nothing) -> ModelVersion:
        """Register the champion's checkpoint as a new version, after `change` has edited it, and return the version."""
        return register_again(self.version, registry.checkpoint(self.version), change)

    def answering(self) -> str:
        """Return the number of the version that answers requests."""
        return str(local_http.request("GET", f"{self.url}/health", timeout=10).json()["model"]["version"])

    def replicas(self) -> list[psutil.Process]:
        return usage.replicas(_cluster().pid)

    def controller(self) -> psutil.Process:
        """Return the process of Serve's controller."""
        return usage.controller(_cluster().pid)

    def running(self) -> int:
        """Return how many replicas take requests, according to Serve."""
        deployed = Serve(_cluster().dashboard).details()["applications"].values()
        (found,) = [app["deployments"][DEPLOYMENT] for app in deployed if DEPLOYMENT in app["deployments"]]
        return sum(replica["state"] == "RUNNING" for replica in found["replicas"])

    def generator(self) -> LoadGenerator:
        return LoadGenerator(f"{self.url}/predict", self.images)

    @contextmanager
    def under_load(self, rate: float, seconds: float, timeout: float = 10.0) -> Iterator[Future[Sample]]:
        """Send an open loop while the body runs; yield the future of its Sample, which is done at the end.

        timeout: the clients' deadline, seconds. Raises BenchmarkError if the load ends before the body.
        """
        load = Load(rate=rate, seconds=seconds, warmup_seconds=0.5, timeout_seconds=timeout)
        with self.generator() as generator, ThreadPoolExecutor(1) as executor:
            sample = executor.submit(generator.measure, load)
            try:
                time.sleep(LEAD_S)
                yield sample
                if sample.done():
                    sample.result()
                    raise BenchmarkError(f"the load of {seconds:.0f} s ended too soon: give a lower --rate")
                sample.result()
            except BaseException:
                generator.stop()
                raise


@contextmanager
def stage(model: str | None, config: Path, replicas: int | None = None) -> Iterator[Server]:
    """Serve a copy of the model (default: the latest champion) with the file's configuration, and yield the Server.

    replicas fixes their number. Raises UnknownModelError, UnknownDatasetError if the model's dataset is not prepared,
    ConfigError for an invalid file, and what `deploy.up` raises.
    """
    theirs = registry.resolve(model)
    directory = registry.checkpoint(theirs)
    dataset = open_dataset(load_card(directory).dataset)
    with tempfile.TemporaryDirectory(prefix="raycls-stage-") as folder:
        (Path(folder) / "datasets").symlink_to(home.datasets())
        images = Path(folder) / "images"
        write_images(dataset, images, IMAGES)
        with home.elsewhere(Path(folder)):
            mine = register_again(theirs, directory)
            mine = registry.set_alias(mine.name, mine.version)
            document = ServeConfiguration.read(config).pinned(replicas=replicas, port=free_port(8000))
            url = deploy.up(document, detach=True).url
            try:
                yield Server(mine, url, images)
            finally:
                deploy.down()


def register_again(like: ModelVersion, directory: Path, change: Change = _nothing) -> ModelVersion:
    """Register a copy of the checkpoint directory, edited by `change`, as a version with the tags of `like`."""
    with tempfile.TemporaryDirectory() as folder, tracking.run(like.name, "copy", {}) as run:
        copy = Path(shutil.copytree(directory, f"{folder}/checkpoint"))
        change(copy)
        copied = (registry.ENGINE, registry.ENGINE_TIMINGS, registry.INT8)
        engine = {tag: like.tags[tag] for tag in copied if tag in like.tags}
        return registry.register(
            like.name, run, copy, fingerprint=like.fingerprint, metrics=like.metrics, lineage=engine
        )


def _cluster() -> cluster.Cluster:
    running = cluster.status()
    if running is None:
        raise BenchmarkError("the cluster stopped during the measurement")
    return running
