"""How much CPU and memory the replicas, the ingress and all other programs use while a server is under load.

    meter = Meter(head=None)
    ...                      # the load
    meter.cores()            # {"replicas": 1.02, "ingress": 0.31, "busy": 1.9}

It reads this machine's process table, so it does not see replicas on other nodes.
"""

from __future__ import annotations

import time

import psutil
from psutil import Process

from raycls.errors import BenchmarkError

# The names that Ray gives its processes. The ingress is every process between the socket and the replicas.
REPLICA = "ray::ServeReplica:"
# Replicas in Serve's words, which answer no prediction.
BESIDE = "ray::ServeReplica:raycls-"
CONTROLLER = "ray::ServeController"
INGRESS = ("haproxy", "ray::ProxyActor", "ray::HAProxyManager")


class Meter:
    """Measures CPU time from its construction on, in cores (1.0 is one core fully used). head: see `replicas`."""

    def __init__(self, head: int | None = None) -> None:
        self._started = time.perf_counter()
        self._busy = _busy_seconds()
        groups = {"replicas": replicas(head), "ingress": _called(INGRESS, head)}
        self._groups = {group: {p: _cpu_seconds(p) for p in found} for group, found in groups.items()}

    def cores(self) -> dict[str, float]:
        """Return the cores used by "replicas", by "ingress", and in all ("busy"), from 0 to the number of cores."""
        wall = time.perf_counter() - self._started
        spent = {
            group: sum(max(0.0, _cpu_seconds(process) - before) for process, before in members.items())
            for group, members in self._groups.items()
        }
        spent["busy"] = _busy_seconds() - self._busy
        return {group: seconds / wall for group, seconds in spent.items()}


def replicas(head: int | None = None) -> list[Process]:
    """Return the replica processes of the model at /: of the cluster with this head process, or of every cluster.

    Serve calls the processes of the control plane, of the console and of other models replicas too.
    """
    return [process for process in _called((REPLICA,), head) if not _name(process).startswith(BESIDE)]


def controller(head: int) -> Process:
    """Return the process of Serve's controller in the cluster with this head process.

    Raises BenchmarkError if there is not exactly one.
    """
    found = _called((CONTROLLER,), head)
    if len(found) != 1:
        raise BenchmarkError(f"the cluster has {len(found)} Serve controllers, not 1")
    return found[0]


def memory_mib(processes: list[Process]) -> float:
    """Return the memory that belongs to these processes alone (USS), MiB: no shared libraries or mapped files."""
    return sum(process.memory_full_info().uss for process in processes) / 2**20


def _called(names: tuple[str, ...], head: int | None) -> list[Process]:
    processes = psutil.Process(head).children(recursive=True) if head else psutil.process_iter()
    return [process for process in processes if _name(process).startswith(names)]


def _name(process: Process) -> str:
    try:
        return (process.cmdline() or [""])[0].rpartition("/")[2]
    except psutil.Error:  # the process has ended, or belongs to another user
        return ""


def _cpu_seconds(process: Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:  # the process has ended: its CPU time is not known
        return 0.0


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0)
