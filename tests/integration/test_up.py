"""`raycls up` and `raycls down`: what they start, what they refuse, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import requests
from harness.broken_versions import BROKEN, cut_short
from harness.served_copy import register_again

from raycls import cluster, registry
from raycls.benchmark import usage
from raycls.cluster.environment import LOWEST_PRIORITY, OWN_CORES, private
from raycls.cluster.lifecycle import is_agent
from raycls.cluster.processes import psutil
from raycls.errors import ClusterError, RefusedError, UnknownModelError
from raycls.ray_patches import patches
from raycls.registry import gate, history
from raycls.serving.control import deploy, rollout
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult
from tests.load import asking

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture
def running(served: Served) -> cluster.Cluster:
    found = cluster.status()
    assert found is not None
    return found


def test_a_second_up_is_one_clear_line(running: cluster.Cluster, serve_config: Path) -> None:
    with pytest.raises(ClusterError, match=rf"already up: process {running.pid}, .*raycls down"):
        deploy.up(ServeConfiguration.read(serve_config), detach=True)
    with pytest.raises(ClusterError, match="already up"):
        cluster.start()
    assert cluster.status() == running


def test_rays_agent_comes_last(running: cluster.Cluster) -> None:
    (agent,) = filter(is_agent, running.head.members())
    assert {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in agent.threads()} == {LOWEST_PRIORITY}
    (raylet,) = [process for process in running.head.members() if process.name() == "raylet"]
    assert raylet.nice() == 0  # its command line has the agent's in it


@pytest.mark.skipif(OWN_CORES not in private(Path()), reason="in a container no replica is bound to a core")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_two_threads_of_a_replica_keep_to_one_core(running: cluster.Cluster) -> None:
    bound: list[set[int]] = []
    deadline = time.monotonic() + 10  # a replica before it may have had the core until just now
    # The event loop's and the batches' thread. A pool thread of Ray that the event loop starts inherits its core.
    while len(bound) < 2 or any(cores != bound[0] for cores in bound):
        assert time.monotonic() < deadline, bound
        time.sleep(0.2)
        bound = []
        for replica in usage.replicas(running.pid):
            for thread in replica.threads():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    bound += [cores for cores in [os.sched_getaffinity(thread.id)] if len(cores) == 1]


def test_a_taken_port_is_said_before_anything_starts(home: Path, served: Served, serve_config: Path) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    with pytest.raises(ClusterError, match=f"port {port} is in use.*--port"):
        deploy.up(ServeConfiguration.read(serve_config).pinned(port=port), detach=True)
    assert not (home / "cluster.json").exists()


def test_an_unknown_version_is_refused_and_the_old_one_stays(served: Served, serve_config: Path) -> None:
    with pytest.raises(UnknownModelError, match="no version 99"):
        deploy.deploy(ServeConfiguration.read(serve_config).pinned(model="digits/99", replicas=1))
    assert requests.get(f"{served.url}/health", timeout=10).json()["status"] == "ok"


def test_down_without_a_cluster(home: Path) -> None:
    assert deploy.down() is False


def test_ray_listens_on_loopback_alone(running: cluster.Cluster) -> None:
    """But for what cannot be told: HAProxy's statistics and metrics, and Serve's port between deployments."""
    ours = {process.pid: process for process in running.head.members()}
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in ours]
    assert len(listening) > 5
    beyond = {
        c.laddr.port: " ".join(ours[c.pid].cmdline())
        for c in listening
        if c.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    }
    known = [who for who in beyond.values() if "haproxy" in who or "ray::ServeReplica" in who]
    assert len(known) == len(beyond), beyond
    assert sum("haproxy" in who for who in known) <= 2


def test_jobs_need_the_token_and_run_with_it(running: cluster.Cluster) -> None:
    submit = [*RAY, "job", "submit", "--address", running.dashboard, "--", "echo", "ran on the cluster"]
    done = subprocess.run(
        submit,
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ran on the cluster" in done.stdout
    refused = requests.get(f"{running.dashboard}/api/jobs/", timeout=10)
    assert refused.status_code == 401


def test_doctor_finds_the_cluster_healthy(
    running: cluster.Cluster, served: Served, serve_config: Path
) -> None:
    """In a process of its own, since this one is connected to another Ray."""
    port = int(served.url.rsplit(":", 1)[1])
    program = (
        "import sys; from pathlib import Path; from raycls.serving.control.doctor import examine\n"
        f"for f in examine(Path({str(serve_config)!r}), port={port}): print(f.ok, f.text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    about_patches = [line for line in lines if line.startswith("True patch ")]
    assert len(about_patches) == len(patches()), done.stdout
    assert len(lines) == len(about_patches) + 9, done.stdout
    assert all(line.startswith("True") for line in lines), done.stdout
    assert "ingress" in done.stdout and f"port {port} serves digits/" in done.stdout


@pytest.fixture
def registered(trained: TrainingResult) -> Callable[..., registry.ModelVersion]:
    """The champion again as a new version, with something changed in its checkpoint where that is asked for."""
    assert trained.version is not None
    return partial(register_again, trained.version, registry.checkpoint(trained.version))


TOLD = {
    "a damaged checkpoint": "damaged",
    "answers are NaN": "not finite",
    "all weights are zero": "not .* as registered",
    "other classes": "does not know",
    "a network that raises": "is refused",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_version_is_refused_and_the_champion_stays(
    served: Served,
    registered: Callable[..., registry.ModelVersion],
    trained: TrainingResult,
    name: str,
) -> None:
    assert trained.version is not None
    broken = registered(BROKEN[name])
    with asking(served) as (failed, seen), pytest.raises(RefusedError, match=TOLD[name]) as caught:
        rollout.promote("digits", broken.version, force="a copy")
    assert "\n" not in str(caught.value)
    assert registry.resolve("digits").version == trained.version.version
    assert (set(failed), seen) == (set(), {trained.version.version})


def test_a_version_that_the_cluster_cannot_take_up_is_rolled_back(
    served: Served,
    registered: Callable[..., registry.ModelVersion],
    trained: TrainingResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its checkpoint is damaged between the look at it and the start of its replicas."""
    assert trained.version is not None
    broken = registered()

    def too_late(version: registry.ModelVersion, *others: object) -> registry.ModelVersion:
        cut_short(registry.checkpoint(version))
        return version

    monkeypatch.setattr(gate, "examine", too_late)
    with asking(served) as (failed, seen), pytest.raises(RefusedError, match="is served as before"):
        rollout.promote("digits", broken.version, force="a copy")
    assert registry.resolve("digits").version == trained.version.version
    health = requests.get(f"{served.url}/health", timeout=10).json()
    assert health["model"]["version"] == trained.version.version
    assert (set(failed), seen) == (set(), {trained.version.version})


def test_going_back_serves_the_former_champion_and_loses_no_request(
    served: Served, registered: Callable[..., registry.ModelVersion], champion: TrainingResult
) -> None:
    assert champion.version is not None
    second = registered()
    with pytest.raises(RefusedError, match="both give the same answers"):
        rollout.promote("digits", second.version)
    with asking(served) as (failed, seen):
        rollout.promote("digits", second.version, force="a copy")
        assert rollout.rollback("digits", reason="an exercise").version == champion.version.version
        health = requests.get(f"{served.url}/health", timeout=10).json()
    assert health["model"]["version"] == champion.version.version
    assert registry.resolve("digits").version == champion.version.version
    assert [event.kind for event in history.events("digits")[:3]] == ["rollback", "forced", "refusal"]
    assert set(failed) == set()
    assert seen == {champion.version.version, second.version}


def _with_processes_of_ray() -> cluster.Cluster:
    """The cluster that is being started, once processes of Ray's own are there beside its head."""
    deadline = time.monotonic() + 60
    while (found := cluster.status()) is None or len(found.head.members()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_ctrl_c_while_starting_leaves_nothing(home: Path) -> None:
    program = "from raycls import cluster; cluster.start()"
    starting = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    state = home / "cluster.json"
    found = _with_processes_of_ray()
    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert found.head.members() == []
    assert not state.exists()
    assert not Path(found.directory).exists()


def test_down_clears_up_after_a_killed_up(home: Path) -> None:
    program = "from raycls import cluster; cluster.start()"
    starting = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    found = _with_processes_of_ray()
    starting.kill()
    starting.wait()
    assert found.head.alive()
    assert deploy.down() is True
    assert found.head.members() == []
    assert not Path(found.directory).exists()
