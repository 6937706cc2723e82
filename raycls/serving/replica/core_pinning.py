"""Keep a replica's two threads to one core that no other replica uses.

    core = PinnedCore([threading.get_native_id()])
    core.keep()                  # and again from time to time
    core.leave()                 # while many requests wait

A replica of one thread has two busy threads: the event loop's and the batches'. On two cores they wait for each other's
interpreter lock and use two caches. On one core they take turns, and the threads of other replicas run elsewhere. A
replica claims core N by binding the abstract Unix socket `raycls-core-N`. The kernel releases the name when the process
ends. Replicas in different containers do not see each other's names.
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
    """`threads` are kernel ids, as threading.get_native_id() gives them. Objects of one `name` share the cores."""

    def __init__(self, threads: Sequence[int], name: str = "raycls-core"):
        self._threads, self._name = threads, name
        self._all = os.sched_getaffinity(0)
        self._one_at_a_time = threading.Lock()  # Ray checks a replica's health in several threads
        self._taken: socket.socket | None = None
        self._refused = False

    def keep(self) -> None:
        """Bind the threads to a core that no other replica has. While all are taken, the threads run on any core."""
        with self._one_at_a_time:
            if not self._taken and not self._refused:
                self._taken = self._take()

    def leave(self) -> None:
        """Let the threads run on any core, and give their core back."""
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
            logger.warning(f"this replica keeps to no core of its own: {error}")
            self._refused = True
        return not self._refused


def _rank(core: int) -> tuple[int, int]:
    """Sort key: the first hardware thread of each physical core comes before all second ones."""
    try:
        siblings = (CORES / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return 0, core
    return int(not siblings.startswith(str(core))), core
