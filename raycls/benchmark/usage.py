"""Who uses this machine's cores and memory while a server is under load: replicas, ingress, and all else.

    meter = Meter(head=None)
    ...                      # the work
    meter.cores()            # {"replicas": 1.02, "ingress": 0.31, "busy": 1.9}

Reads the process table of this machine: nothing is known of replicas on another node.
"""

from __future__ import annotations

import time

import psutil
from psutil import Process

from raycls.errors import BenchmarkError

# By the names Ray gives its processes: every replica, and what stands between them and the socket.
REPLICA = "ray::ServeReplica:"
CONTROLLER = "ray::ServeController"
INGRESS = ("haproxy", "ray::ProxyActor", "ray::HAProxyManager")


class Meter:
    """CPU time since its making, in cores: 1.0 is one core fully used. head: see `replicas`."""

    def __init__(self, head: int | None = None) -> None:
        self._started = time.perf_counter()
        self._busy = _busy_seconds()
        groups = {"replicas": replicas(head), "ingress": _called(INGRESS, head)}
        self._groups = {group: {p: _cpu_seconds(p) for p in found} for group, found in groups.items()}

    def cores(self) -> dict[str, float]:
        """replicas, ingress and busy (all that runs on this machine), from 0 to the number of cores."""
        wall = time.perf_counter() - self._started
        spent = {
            group: sum(max(0.0, _cpu_seconds(process) - before) for process, before in members.items())
            for group, members in self._groups.items()
        }
        spent["busy"] = _busy_seconds() - self._busy
        return {group: seconds / wall for group, seconds in spent.items()}


def replicas(head: int | None = None) -> list[Process]:
    """The replica processes here: of the cluster that has this head process, or of every one."""
    return _called((REPLICA,), head)


def controller(head: int) -> Process:
    """Serve's controller in the cluster that has this head process. Raises BenchmarkError where there is not one."""
    found = _called((CONTROLLER,), head)
    if len(found) != 1:
        raise BenchmarkError(f"{len(found)} processes are Serve's controller")
    return found[0]


def memory_mib(processes: list[Process]) -> float:
    """What ending these processes would free (USS), MiB: no shared libraries, no mapped files."""
    return sum(process.memory_full_info().uss for process in processes) / 2**20


def _called(names: tuple[str, ...], head: int | None) -> list[Process]:
    processes = psutil.Process(head).children(recursive=True) if head else psutil.process_iter()
    return [process for process in processes if _name(process).startswith(names)]


def _name(process: Process) -> str:
    try:
        return (process.cmdline() or [""])[0].rpartition("/")[2]
    except psutil.Error:  # it has ended since it was listed, or is another user's
        return ""


def _cpu_seconds(process: Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:  # autoscaled away, or lost: what it used until then is not known
        return 0.0


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0)
