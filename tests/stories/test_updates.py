"""A version is promoted while clients ask: none of them loses a request, and replicas answer all the time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from harness.served_copy import register_again

from raycls import cluster, registry
from raycls.registry import CHAMPION
from raycls.serving.control import rollout
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult
from tests.load import asking
from tests.product import until


@contextmanager
def behind_haproxy(running: cluster.Cluster) -> Iterator[list[int]]:
    """How many replicas HAProxy sends requests to, looked at ten times a second."""
    (config,) = Path(running.directory).glob("*/haproxy.cfg")
    counts: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            servers = [line for line in config.read_text().splitlines() if line.split()[:1] == ["server"]]
            counts.append(sum(not line.endswith("backup") for line in servers))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def _version(served: Served) -> str:
    found: str = requests.get(f"{served.url}/health", timeout=10).json()["model"]["version"]
    return found


def test_promoting_a_version_serves_it_and_loses_no_request(served: Served, trained: TrainingResult) -> None:
    """The champion again as a new version, promoted under load, then the first again.

    All the time, HAProxy sends the requests to a replica and not to Ray's own proxy, which is too slow for the load.
    A single look at HAProxy's configuration may find a file that is half written.
    """
    running = cluster.status()
    assert running is not None
    assert trained.version is not None
    second = register_again(trained.version, registry.checkpoint(trained.version))
    with asking(served) as (failed, seen), behind_haproxy(running) as counts:
        # Once as on this machine, and once as on any cluster: by the address of its dashboard.
        for version, address in ((second, None), (trained.version, running.dashboard)):
            promoted = rollout.promote("digits", version.version, force="a copy", address=address)
            assert CHAMPION in promoted.aliases
            until(lambda: _version(served) == version.version, 0.1 if address is None else 10)  # noqa: B023
            promoted = registry.resolve(version.reference)
            assert {timing["engine"] for timing in promoted.engine_timings} > {promoted.engine}
            metrics = requests.get(f"{served.url}/metrics", timeout=10).text
            series = f'raycls_model_info{{device="cpu",engine="{promoted.engine}",name="digits",'
            assert [
                line
                for line in metrics.splitlines()
                if series in line and f'version="{version.version}"' in line
            ]
            deadline = time.monotonic() + 10
            while version.version not in seen:
                assert time.monotonic() < deadline, "no client was answered by the version"
                time.sleep(0.05)
    assert set(failed) == set()
    assert seen == {second.version, trained.version.version}
    assert len(counts) > 20
    assert max(counts) >= 1
    assert (0, 0) not in itertools.pairwise(counts)
