"""Start, find and stop a Ray cluster: the only place that does.

    cluster.connect()              # a driver: use the running cluster, or start one that ends with this process
    running = cluster.start()      # a cluster of its own on loopback that outlives this process
    cluster.stop()                 # exactly what start() started, nothing else on this machine

`$RAYCLS_HOME/cluster.json` records the cluster of `start`. Knows nothing of models or HTTP: it is
raycls/serving/control/deploy.py that puts the application on the cluster.
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
import threading
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
    without_secrets,
)
from raycls.errors import ClusterError
from raycls.home import home, lock
from raycls.ray_patches import driver_address, driver_token

if TYPE_CHECKING:
    import psutil

    from raycls.cluster.processes import SessionLeader

START_TIMEOUT_S = 120
PRIVATE = threading.Event()  # set: `connect` has started a Ray that ends with this process


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that `start` started: its head process, by its id and its birth, its addresses and its files."""

    pid: int
    born: str
    address: str
    dashboard: str
    directory: str

    @property
    def log(self) -> Path:
        return Path(self.directory) / "ray.log"

    @property
    def head(self) -> SessionLeader:
        from raycls.cluster.processes import SessionLeader

        return SessionLeader(self.pid, self.born)


def connect(num_cpus: int | None = None, *, log_to_driver: bool = False, start_local: bool = True) -> None:
    """Connect this process to Ray: to `$RAY_ADDRESS`, else the cluster of `raycls up`, else any Ray of this machine.

    Where none runs, start a local Ray with num_cpus (default: all of the machine's) that ends with this process. Return
    at once when already connected. Raises ClusterError when a named cluster does not answer, and when none runs and
    start_local is False.
    """
    import ray

    if ray.is_initialized():
        return
    running = status()
    address = os.environ.get("RAY_ADDRESS") or (running.address if running else _started_by_hand())
    ensure_token()
    driver_token.authenticate(with_token=not _is_open(address))
    if address is None and not start_local:
        raise ClusterError("no Ray runs on this machine: start it with `raycls up`")
    if running and address == running.address:
        driver_address.keep_loopback()
    local = address in (None, "local")
    if local:
        PRIVATE.set()
        # Inherited by all of this Ray's processes. A runtime environment would keep tasks out of the processes that Ray
        # starts ahead, and each process of it imports Ray twice.
        os.environ |= SAME_PRIORITY | ALLOCATOR
    with progress.bar("starting Ray" if local else "connecting to Ray"), without_secrets():
        try:
            ray.init(
                address or "local",
                num_cpus=num_cpus if local else None,
                # A private Ray needs no dashboard: it ends with this process, and the dashboard takes CPU from
                # training.
                include_dashboard=False if local else None,
                logging_level=logging.WARNING,
                log_to_driver=log_to_driver,
                runtime_env=None if local else {"env_vars": ALLOCATOR},
            )
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise ClusterError(complaint(address or "local", error)) from error


def _started_by_hand() -> str | None:
    """Return the address that `ray start` recorded on this machine, where a cluster still answers there.

    Ray's own "auto" would also join the private Ray of any other process, and wait minutes for a dead one.
    """
    record = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        address = record.read_text().strip()
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return None
    return address


def start(*, num_cpus: int | None = None) -> Cluster:
    """Start a one-node cluster on loopback, in a session of its own, and return it when it accepts drivers.

    Take free ports, Ray's usual ones first, so that several clusters can run on one machine. Raises ClusterError when
    one is already running for this home, or when Ray does not start; then nothing is left of it.
    """
    from raycls.cluster.processes import SessionLeader

    ensure_token()
    with lock("cluster.lock", "another `raycls up` is starting a cluster: wait for it"):
        if running := status():
            raise ClusterError(
                f"already up: process {running.pid}, dashboard {running.dashboard}; stop it with `raycls down`"
            )
        stop()  # processes that a killed head may have left
        # In /tmp, whatever TMPDIR says: the paths of Ray's sockets may have 97 characters at most.
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
            with (
                progress.bar("starting Ray"),
                without_secrets(),
                (directory / "ray.log").open("wb") as output,
            ):
                process = subprocess.Popen(
                    command,
                    env=os.environ | environment() | private(directory),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches `start` alone, which then stops the cluster in order
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
    """Return the cluster that `start` started under this home, or None where its head process is not alive."""
    cluster = _read_state()
    return cluster if cluster and cluster.head.alive() else None


def stop() -> bool:
    """End every process of the cluster that `start` started, and remove its files. Return False when there was none.

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


def _is_open(address: str | None) -> bool:
    """Return whether the cluster asks for no token, like the one that a plain `ray start` makes.

    Such a cluster cannot call back a driver that asks for a token. It takes the driver for dead.
    """
    import grpc

    if address in (None, "local"):
        return False
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=5)
        except grpc.RpcError:  # it asks for one, or it does not answer, which ray.init reports
            return False
    return True


def _await_ready(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (Path(cluster.directory) / "ray_current_cluster").exists():  # what `ray start` writes last
        if not cluster.head.alive() or time.monotonic() > deadline:
            lines = [line.strip() for line in cluster.log.read_text(errors="replace").splitlines()]
            reason = next((line for line in reversed(lines) if line), "its log is empty")
            raise ClusterError(f"Ray did not start: {reason}")
        time.sleep(0.1)


def _put_last(cluster: Cluster) -> None:
    """Give Ray's agent the lowest priority: from time to time it reads every process, for a tenth of a second."""
    from raycls.cluster.processes import psutil

    for process in cluster.head.members():
        with suppress(psutil.Error, OSError):  # the process has ended, or may not be changed
            if is_agent(process):
                for thread in process.threads():  # threads that it starts later inherit the priority
                    os.setpriority(os.PRIO_PROCESS, thread.id, LOWEST_PRIORITY)


def is_agent(process: psutil.Process) -> bool:
    """Return whether the process is Ray's agent, by its command or by the name that it gives itself."""
    return any(
        part.endswith("/dashboard/agent.py") or part == "ray::DashboardAgent" for part in process.cmdline()
    )


def _state_path() -> Path:
    return home() / "cluster.json"


def _read_state() -> Cluster | None:
    from raycls.cluster.processes import SessionLeader

    try:
        found = json.loads(_state_path().read_text())
    except FileNotFoundError:
        return None
    if "started" in found:  # of an older raycls, which knew a process by its start time
        found["born"] = SessionLeader.started_at(found["pid"], found.pop("started")).born
    return Cluster(**found)


def _write_state(cluster: Cluster) -> None:
    part = _state_path().with_suffix(".part")
    part.write_text(json.dumps(asdict(cluster), indent=1))
    part.replace(_state_path())


def complaint(address: str, error: Exception) -> str:
    """Return one line that says what is wrong, and the way out, when ray.init fails for this address."""
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
