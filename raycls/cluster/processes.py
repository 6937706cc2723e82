"""A process that leads a session of its own: who belongs to it, and how all of it is ended.

    leader = SessionLeader.of(subprocess.Popen(command, start_new_session=True).pid)
    leader.end()                            # it, its children, theirs, and what they left behind

A process id alone is no identity, since the kernel gives it out again: a leader is an id and the birth of its process.
Knows nothing of what the processes do.
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
    """`started` is the birth of process `pid`, seconds since the epoch."""

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
        """Those alive in the leader's session, though the leader may have ended, and all their descendants."""
        if psutil.pid_exists(self.pid) and psutil.Process(self.pid).create_time() != self.started:
            return []  # the id was given to another, which happens only when the whole session has ended
        found = set()
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == self.pid:
                    found |= {process, *process.children(recursive=True)}
        return [process for process in found if _alive(process)]

    def end(self) -> list[int]:
        """SIGTERM to the leader, which may end the others in order; then to each, then SIGKILL; who remains."""
        remaining = self.members()
        for target in ("leader", "all", "kill"):
            for process in remaining:
                if target != "leader" or process.pid == self.pid:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGKILL if target == "kill" else signal.SIGTERM)
            deadline = time.monotonic() + (KILL_S if target == "kill" else TERM_S)
            while (remaining := [p for p in remaining if _alive(p)]) and time.monotonic() < deadline:
                if target == "leader" and not self.alive():
                    break  # it will end no more of them
                time.sleep(0.05)
            remaining += [late for late in self.members() if late not in remaining]
            if not remaining:
                break
        return [process.pid for process in remaining]


def _alive(process: psutil.Process) -> bool:
    """A zombie has ended; one of our own is reaped on the way."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.is_running())
        if process.ppid() == os.getpid():
            os.waitpid(process.pid, os.WNOHANG)
    except (psutil.NoSuchProcess, ChildProcessError):
        pass
    return False
