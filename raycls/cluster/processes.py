"""Find and end every process of a session, by the process that leads it.

    leader = SessionLeader.of(subprocess.Popen(command, start_new_session=True).pid)
    leader.end()                            # the leader and all its descendants, orphans too

The kernel reuses process ids. A leader is therefore an id together with the birth of its process. On Linux that is
counted from the boot of the machine, because a start time changes where somebody sets the clock.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

TERM_S, KILL_S = 8.0, 5.0


@dataclass(frozen=True)
class SessionLeader:
    """`born` names the birth of process `pid`: no other process of that id has the same."""

    pid: int
    born: str

    @classmethod
    def of(cls, pid: int) -> SessionLeader:
        """Return the leader with this id. Raises psutil.NoSuchProcess."""
        return cls(pid, birth(pid))

    @classmethod
    def started_at(cls, pid: int, started: float) -> SessionLeader:
        """Return the leader that an older raycls knew by its start time, in seconds since the epoch."""
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).create_time() == started:
                return cls.of(pid)
        return cls(pid, "")  # which has ended

    def alive(self) -> bool:
        try:
            return birth(self.pid) == self.born and _alive(psutil.Process(self.pid))
        except psutil.NoSuchProcess:
            return False

    def members(self) -> list[psutil.Process]:
        """Return the living processes of the session and all their descendants; the leader itself may have ended."""
        if not self.born or self.born.partition("/")[0] != birth(os.getpid()).partition("/")[0]:
            return []  # of before the machine was started: whoever has the id now is somebody else
        with suppress(psutil.NoSuchProcess):
            if birth(self.pid) != self.born:
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


def birth(pid: int) -> str:
    """Return the boot of the machine and the clock tick at which a process began. Raises psutil.NoSuchProcess.

    Field 22 of /proc/PID/stat: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html. Where the system does not
    show it, the start time.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name of the program, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return f"{boot}/{int(fields[19])}"
    except OSError:
        return f"/{psutil.Process(pid).create_time()}"  # raises where there is no such process


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
