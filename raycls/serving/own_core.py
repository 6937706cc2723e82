"""A replica keeps to a core of its own, where the machine has one for it.

    core = OwnCore([threading.get_native_id()])
    core.keep()                  # now, and again now and then, until there is one

A replica of one thread has two that matter, the event loop's and the batches'. On two cores they wait for each other's
interpreter lock and work from two caches; on one they take turns, and other replicas' threads are elsewhere. Whose a
core is tells a name in the abstract namespace of Unix sockets, raycls-core-N, which ends with the process that has it.

Only for a machine that is raycls's own: replicas in containers do not see each other's names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence


class OwnCore:
    """`threads` are ids as the kernel has them, those of threading.get_native_id()."""

    def __init__(self, threads: Sequence[int]):
        self._threads = threads
        self._name: socket.socket | None = None

    def keep(self) -> None:
        """Bind the threads to a core that no other replica has; while all are taken, they run on any."""
        if self._name:
            return
        for core in sorted(os.sched_getaffinity(0)):
            name = socket.socket(socket.AF_UNIX)
            try:
                name.bind(f"\0raycls-core-{core}")
            except OSError:
                name.close()
                continue
            self._name = name
            for thread in self._threads:
                os.sched_setaffinity(thread, {core})
            return
