"""Find and end every process of a session, by the process that leads it.

    leader = SessionLeader.of(subprocess.Popen(command, start_new_session=True).pid)
    leader.end()                            # the leader and all its descendants, orphans too

The kernel reuses process ids. A leader is therefore an id together with the start time of its process.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

TERM_S, KILL_S = 8.0, 5.0


@dataclass(frozen=True)
class SessionLeader:
    """`started` is when process `pid` began, in seconds since the epoch."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> SessionLeader:
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started and _alive(process)
        except psutil.NoSuchProcess:
            return False

    def members(self) -> list[psutil.Process]:
        """Return the living processes of the session and all their descendants; the leader itself may have ended."""
        if psutil.pid_exists(self.pid) and psutil.Process(self.pid).create_time() != self.started:
            return []  # another process has the id: the kernel reuses it only after the whole session has ended
        found = set()
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == self.pid:
                    found |= {process, *process.children(recursive=True)}
        return [process for process in found if _alive(process)]

    def end(self) -> list[int]:
        """Send SIGTERM to the leader, then to all, then SIGKILL. Return the ids of the processes that remain.

        The leader goes first because it may end the others in order.
        """
        remaining = self.members()
        for target in ("leader", "all", "kill"):
            for process in remaining:
                if target != "leader" or process.pid == self.pid:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGKILL if target == "kill" else signal.SIGTERM)
            deadline = time.monotonic() + (KILL_S if target == "kill" else TERM_S)
            while (remaining := [p for p in remaining if _alive(p)]) and time.monotonic() < deadline:
                if target == "leader" and not self.alive():
                    break  # it ends no others any more
                time.sleep(0.05)
            remaining += [late for late in self.members() if late not in remaining]
            if not remaining:
                break
        return [process.pid for process in remaining]


def _alive(process: psutil.Process) -> bool:
    """Return whether the process runs. A zombie does not; a zombie child of this process is reaped."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.is_running())
        if process.ppid() == os.getpid():
            os.waitpid(process.pid, os.WNOHANG)
    except (psutil.NoSuchProcess, ChildProcessError):
        pass
    return False
