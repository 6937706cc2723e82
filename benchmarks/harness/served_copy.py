"""A model on a cluster of its own, in a temporary home, where a benchmark may update, break and kill what it likes.

    with stage("cifar10", config, replicas=2) as server, server.under_load(rate=250, seconds=20) as sample:
        server.replicas()[0].kill()
    sample.result().errors

The registry and the cluster of whoever measures are not touched; their dataset is read.
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
from raycls.data.packed import open_dataset
from raycls.errors import BenchmarkError
from raycls.models.card import load_card
from raycls.registry import ModelVersion
from raycls.serving.control import deploy
from raycls.serving.control.configuration import DEPLOYMENT, ServeConfiguration

IMAGES = 500
LEAD_S = 2.0  # of undisturbed load, before anything is done


def _nothing(directory: Path) -> None:
    pass


@dataclass(frozen=True)
class Server:
    """Where the model answers, and the images to ask it about. `version` is the champion of the temporary home."""

    version: ModelVersion
    url: str
    images: Path

    def again(self, change: Change = _nothing) -> ModelVersion:
        """The champion as a further version, with something changed in its checkpoint before it is registered."""
        return register_again(self.version, registry.checkpoint(self.version), change)

    def answering(self) -> str:
        """The number of the version that answers."""
        return str(local_http.request("GET", f"{self.url}/health", timeout=10).json()["model"]["version"])

    def replicas(self) -> list[psutil.Process]:
        return usage.replicas(_cluster().pid)

    def controller(self) -> psutil.Process:
        """The process that starts, counts and ends the replicas."""
        return usage.controller(_cluster().pid)

    def running(self) -> int:
        """How many replicas take requests, by Serve's own account."""
        (application,) = deploy.applications(_cluster())["applications"].values()
        replicas = application["deployments"][DEPLOYMENT]["replicas"]
        return sum(replica["state"] == "RUNNING" for replica in replicas)

    def generator(self) -> LoadGenerator:
        return LoadGenerator(f"{self.url}/predict", self.images)

    @contextmanager
    def under_load(self, rate: float, seconds: float) -> Iterator[Future[Sample]]:
        """An open loop beside what is done meanwhile; its sample is known once the context has ended.

        Raises BenchmarkError where the load ended before what it was to accompany.
        """
        load = Load(rate=rate, seconds=seconds, warmup_seconds=0.5)
        with self.generator() as generator, ThreadPoolExecutor(1) as beside:
            sample = beside.submit(generator.measure, load)
            try:
                time.sleep(LEAD_S)
                yield sample
                if sample.done():
                    sample.result()
                    raise BenchmarkError(
                        f"the load of {seconds:.0f} s was over too soon: give a lower --rate"
                    )
                sample.result()
            except BaseException:
                generator.stop()
                raise


@contextmanager
def stage(model: str | None, config: Path, replicas: int | None = None) -> Iterator[Server]:
    """Serve the model (default: the champion promoted last) as the file says, or with a fixed number of replicas.

    Raises UnknownModelError, UnknownDatasetError where the model's dataset is not here, ConfigError for a file that is
    none, and as `deploy.up`.
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
            mine = registry.promote(mine.name, mine.version)
            document = ServeConfiguration.read(config).pinned(replicas=replicas, port=free_port(8000))
            url = deploy.up(document, detach=True).url
            try:
                yield Server(mine, url, images)
            finally:
                deploy.down()


def register_again(like: ModelVersion, directory: Path, change: Change = _nothing) -> ModelVersion:
    """Another version like that one, of its checkpoint directory with something changed in it."""
    with tempfile.TemporaryDirectory() as folder, tracking.run(like.name, "the same again", {}) as run:
        copy = Path(shutil.copytree(directory, f"{folder}/checkpoint"))
        change(copy)
        engine = {
            tag: like.tags[tag] for tag in (registry.ENGINE, registry.ENGINE_TIMINGS) if tag in like.tags
        }
        return registry.register(
            like.name, run, copy, fingerprint=like.fingerprint, metrics=like.metrics, lineage=engine
        )


def _cluster() -> cluster.Cluster:
    running = cluster.status()
    if running is None:
        raise BenchmarkError("the cluster ended during the measurement")
    return running
