"""A replica keeps to a core of its own, where the machine has one for it.

    core = PinnedCore([threading.get_native_id()])
    core.keep()                  # now, and again now and then
    core.leave()                 # while others wait for it, too

A replica of one thread has two that matter, the event loop's and the batches'. On two cores they wait for each other's
interpreter lock and work from two caches; on one they take turns, and other replicas' threads are elsewhere. Whose a
core is tells a name in the abstract namespace of Unix sockets, raycls-core-N, which ends with the process that has it:
replicas in different containers do not see each other's.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

CORES = Path("/sys/devices/system/cpu")

logger = logging.getLogger("ray.serve")


class PinnedCore:
    """`threads` are ids as the kernel has them, those of threading.get_native_id(). What has the same name is apart."""

    def __init__(self, threads: Sequence[int], name: str = "raycls-core"):
        self._threads, self._name = threads, name
        self._all = os.sched_getaffinity(0)
        self._one_at_a_time = threading.Lock()  # Ray looks at a replica's health in several threads
        self._taken: socket.socket | None = None
        self._refused = False

    def keep(self) -> None:
        """Bind the threads to a core that no other replica has; while all are taken, they run on any."""
        with self._one_at_a_time:
            if not self._taken and not self._refused:
                self._taken = self._take()

    def leave(self) -> None:
        """Let the threads run on any core, and another replica have theirs."""
        with self._one_at_a_time:
            if self._taken:
                self._run_on(self._all)
                self._taken.close()
                self._taken = None

    def _take(self) -> socket.socket | None:
        for core in sorted(self._all, key=_rank):
            taken = socket.socket(socket.AF_UNIX)
            try:
                taken.bind(f"\0{self._name}-{core}")
            except OSError:
                taken.close()
                continue
            if self._run_on({core}):
                return taken
            taken.close()
            break
        return None

    def _run_on(self, cores: set[int]) -> bool:
        try:
            for thread in self._threads:
                os.sched_setaffinity(thread, cores)
        except OSError as error:
            logger.warning(f"no core of its own: {error}")
            self._refused = True
        return not self._refused


def _rank(core: int) -> tuple[int, int]:
    """The first of each pair that shares what computes comes before any second one."""
    try:
        siblings = (CORES / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return 0, core
    return int(not siblings.startswith(str(core))), core
