"""Ray's lifecycle: the only place that starts, finds and stops a Ray cluster.

    cluster.connect()              # a driver: use the running cluster, or start one that ends with this process
    running = cluster.start()      # a cluster of its own on loopback that outlives this process
    cluster.stop()                 # exactly what start() started, nothing else on this machine

What start() started stands in `$RAYCLS_HOME/cluster.json`. Knows nothing of models or HTTP: raycls/serving/control/deploy.py
puts the application on the cluster.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raycls import progress
from raycls.cluster.environment import (
    ALLOCATOR,
    LOOPBACK,
    LOWEST_PRIORITY,
    SAME_PRIORITY,
    ensure_token,
    environment,
    free_port,
    private,
)
from raycls.errors import ClusterError
from raycls.home import home, lock

if TYPE_CHECKING:
    import psutil

    from raycls.cluster.processes import SessionLeader

START_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that `start` started: its head process and birth, where drivers and people reach it, its files."""

    pid: int
    started: float
    address: str
    dashboard: str
    directory: str

    @property
    def log(self) -> Path:
        return Path(self.directory) / "ray.log"

    @property
    def head(self) -> SessionLeader:
        from raycls.cluster.processes import SessionLeader

        return SessionLeader(self.pid, self.started)


def connect(num_cpus: int | None = None, *, log_to_driver: bool = False, start_local: bool = True) -> None:
    """Connect this process to Ray: `$RAY_ADDRESS`, else `raycls up`'s cluster, else any Ray of this machine.

    Where none runs, a local one is started with num_cpus (all of the machine's when None) that ends with this
    process. Returns at once when already connected. Raises ClusterError when a named cluster does not answer, and
    when none runs and start_local is False.
    """
    import ray

    if ray.is_initialized():
        return
    running = status()
    address = os.environ.get("RAY_ADDRESS") or (running.address if running else _started_by_hand())
    _authenticate(address)
    if address is None and not start_local:
        raise ClusterError("no Ray runs on this machine: start it with `raycls up`")
    if running and address == running.address:
        _stay_on_loopback()
    local = address in (None, "local")
    if local:
        os.environ |= SAME_PRIORITY
    with progress.bar("starting Ray" if local else "connecting to Ray"):
        try:
            ray.init(
                address or "local",
                num_cpus=num_cpus if local else None,
                # Nobody looks at the dashboard of a Ray that ends with its driver, and its processes take CPU from
                # training.
                include_dashboard=False if local else None,
                logging_level=logging.WARNING,
                log_to_driver=log_to_driver,
                runtime_env={"env_vars": ALLOCATOR},
            )
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise ClusterError(complaint(address or "local", error)) from error


def _started_by_hand() -> str | None:
    """The address that `ray start` recorded on this machine, where a cluster still answers.

    Not Ray's own "auto", which also joins any other process's private Ray that it finds in the process list, and
    waits minutes for one that listens elsewhere or is dead.
    """
    from ray._common.utils import get_default_ray_temp_dir

    record = Path(get_default_ray_temp_dir()) / "ray_current_cluster"
    try:
        address = record.read_text().strip()
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return None
    return address


def start(*, num_cpus: int | None = None) -> Cluster:
    """Start a one-node cluster on loopback in a session of its own, and return when it accepts drivers.

    Ports are chosen free, Ray's usual ones first, so that several clusters can live on one machine.
    Raises ClusterError when one is already running for this home or Ray does not start; nothing is then left.
    """
    from raycls.cluster.processes import SessionLeader

    ensure_token()
    with lock("cluster.lock", "another `raycls up` is starting a cluster just now: wait for it"):
        if running := status():
            raise ClusterError(
                f"already up: process {running.pid}, dashboard {running.dashboard}; stop it with `raycls down`"
            )
        stop()  # what a killed head may have left
        # Short, whatever TMPDIR says: the paths of the sockets in it may have 97 characters.
        directory = Path(tempfile.mkdtemp(prefix="raycls-", dir="/tmp"))
        port, dashboard_port = free_port(6379), free_port(8265)
        options: dict[str, object] = {
            "node-ip-address": LOOPBACK,
            "port": port,
            "dashboard-host": LOOPBACK,
            "dashboard-port": dashboard_port,
            "dashboard-agent-listen-port": 0,
            "ray-client-server-port": free_port(10001),
            "min-worker-port": 0,
            "max-worker-port": 0,
            "temp-dir": directory,
        }
        if num_cpus is not None:
            options["num-cpus"] = num_cpus
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--{name}={value}" for name, value in options.items()]
        try:
            with progress.bar("starting Ray"), (directory / "ray.log").open("wb") as output:
                process = subprocess.Popen(
                    command,
                    env=os.environ | environment() | private(directory),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches `start` alone, which then ends all of it in order
                )
                running = Cluster(
                    **asdict(SessionLeader.of(process.pid)),
                    address=f"{LOOPBACK}:{port}",
                    dashboard=f"http://{LOOPBACK}:{dashboard_port}",
                    directory=str(directory),
                )
                _write_state(running)
                _await_ready(running)
                _put_last(running)
        except BaseException:
            stop()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return running


def status() -> Cluster | None:
    """The cluster that `start` started under this home, if its head process is alive."""
    cluster = _read_state()
    return cluster if cluster and cluster.head.alive() else None


def stop() -> bool:
    """End every process of the cluster that `start` started, and remove its files; False when there was none.

    Raises ClusterError when a process survives SIGKILL.
    """
    cluster = _read_state()
    if cluster is None:
        return False
    if remaining := cluster.head.end():
        raise ClusterError(f"these processes do not end: {', '.join(map(str, remaining))}")
    shutil.rmtree(cluster.directory, ignore_errors=True)
    _state_path().unlink(missing_ok=True)
    return True


def _authenticate(address: str | None) -> None:
    """Let this process send the token where the cluster asks for it, whatever the mode was when ray was imported."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    ensure_token()
    os.environ["RAY_AUTH_MODE"] = "disabled" if _is_open(address) else "token"
    Config.initialize("")  # reads the environment again


def _is_open(address: str | None) -> bool:
    """Whether the cluster asks for no token, as one that a plain `ray start` made.

    Such a cluster cannot call a driver back that asks for one, and takes it for dead with all that it started.
    """
    import grpc

    if address in (None, "local"):
        return False
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=5)
        except grpc.RpcError:  # it does; or nobody is there, as ray.init will say
            return False
    return True


def _stay_on_loopback() -> None:
    """Let this process take 127.0.0.1 literally, as the cluster of `start` does."""
    from ray._private import ray_constants

    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False  # the variable was read when ray was imported


def _await_ready(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (Path(cluster.directory) / "ray_current_cluster").exists():  # what `ray start` writes last
        if not cluster.head.alive() or time.monotonic() > deadline:
            lines = [line.strip() for line in cluster.log.read_text(errors="replace").splitlines()]
            reason = next((line for line in reversed(lines) if line), "it said nothing")
            raise ClusterError(f"Ray did not start: {reason}")
        time.sleep(0.1)


def _put_last(cluster: Cluster) -> None:
    """Give Ray's agent, which at times looks at every process for a tenth of a second, the lowest priority."""
    from raycls.cluster.processes import psutil

    for process in cluster.head.members():
        with suppress(psutil.Error, OSError):  # ended meanwhile, or not to be changed
            if is_agent(process):
                for thread in process.threads():  # those that it starts from now on have it from them
                    os.setpriority(os.PRIO_PROCESS, thread.id, LOWEST_PRIORITY)


def is_agent(process: psutil.Process) -> bool:
    """Whether it is Ray's agent, as it is started, or as it then calls itself."""
    return any(
        part.endswith("/dashboard/agent.py") or part == "ray::DashboardAgent" for part in process.cmdline()
    )


def _state_path() -> Path:
    return home() / "cluster.json"


def _read_state() -> Cluster | None:
    try:
        return Cluster(**json.loads(_state_path().read_text()))
    except FileNotFoundError:
        return None


def _write_state(cluster: Cluster) -> None:
    part = _state_path().with_suffix(".part")
    part.write_text(json.dumps(asdict(cluster), indent=1))
    part.replace(_state_path())


def complaint(address: str, error: Exception) -> str:
    """What is wrong, and the way out, when ray.init fails so for this address."""
    everything = f"{error} {error.__cause__ or ''}"
    if address == "local":
        return f"Ray did not start: {_first_line(error)}"
    if "token" in everything.lower():
        return (
            f"the Ray cluster at {address} refuses this machine's token: put the cluster's own "
            "(`ray get-auth-token` there) into RAY_AUTH_TOKEN"
        )
    if "Version mismatch" in everything:
        lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
        return f"{' '.join(lines)}: install the cluster's versions here, or start it again with these"
    return f"no Ray cluster answers at {address}: start one with `raycls up`, or unset RAY_ADDRESS"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
