"""Several hosts on one machine: network and mount namespaces, each with an address, a loopback and files of its own.

    with hosts(2) as (head, node):
        head.run(["ray", "start", "--head"])
        node.run(["ray", "start", "--address", f"{head.address}:6379"])
        node.cut()                                  # its link is down
        node.join()

They share the machine's cores and its programs. Each has another /tmp, and does not see the others' folders. A
namespace of its own is the switch between them, so that nothing of the machine's own network changes. Needs root, and
Linux's `ip`, `unshare` and `nsenter`.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

NETWORK = "10.77.0"  # no other host is ever reached: the switch leads nowhere else
TOOLS = ("ip", "unshare", "nsenter", "mount", "hostname", "curl")
TRIED = "ip link add bridge type bridge && ip link add one type veth peer name other"
FOLDERS = "/var/tmp"  # of the hosts' files: each has another /tmp
READY_S = 10.0


@functools.cache
def missing() -> str:
    """Return why this machine can have no such hosts, or an empty text."""
    if os.geteuid():
        return "hosts in namespaces need root"
    if absent := [name for name in TOOLS if not shutil.which(name)]:
        return f"hosts in namespaces need {', '.join(absent)}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "sh", "-c", TRIED], capture_output=True, check=False
    )
    return (
        "" if tried.returncode == 0 else f"namespaces are not permitted here: {tried.stderr.decode().strip()}"
    )


@dataclass
class Host:
    """One host. address: the others reach it there. folder: its own files."""

    address: str
    folder: Path
    holder: int  # the process that keeps the namespaces
    environment: dict[str, str] = field(default_factory=dict)

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.holder), "--net", "--mount", "--uts", "--", *command]

    def run(
        self, command: Sequence[str], *, timeout: float = 120, check: bool = True, env: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host and return what it printed. Raises AssertionError with it where it failed."""
        done = subprocess.run(
            self._inside(command),
            env=self._environment(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def start(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] = {}
    ) -> subprocess.Popen[bytes]:
        """Start a command on the host. Its output goes to the log."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self._inside(command),
                env=self._environment(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, **self.environment, **more}

    def cut(self) -> None:
        """Cut the host off: its link is down."""
        subprocess.run(self._inside(["ip", "link", "set", "eth0", "down"]), check=True)

    def join(self) -> None:
        """Bring the link up again."""
        subprocess.run(self._inside(["ip", "link", "set", "eth0", "up"]), check=True)

    def processes(self) -> list[psutil.Process]:
        """Return all processes that run on the host, but for the one that keeps it."""
        own = Path(f"/proc/{self.holder}/ns/net").readlink()
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != self.holder and Path(f"/proc/{process.pid}/ns/net").readlink() == own:
                    found.append(process)
            except OSError:  # it has ended
                continue
        return found

    def kill(self) -> None:
        """End every process of the host at once, as a power failure does."""
        while running := self.processes():
            for process in running:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(running, timeout=5)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Yield so many hosts, which reach each other and nothing else. At the end all their processes are killed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDERS, prefix="raycls-hosts-")))
        switch = stack.enter_context(_holder("switch", folder))
        _ip(switch, "link", "add", "bridge", "type", "bridge")
        _ip(switch, "link", "set", "bridge", "up")
        made: list[Host] = []
        folders = {f"host{number}": folder / f"host{number}" for number in range(1, count + 1)}
        for own in folders.values():
            (own / "tmp").mkdir(parents=True)
        for number, (name, own) in enumerate(folders.items(), start=1):
            hidden = [other for other in folders.values() if other != own]
            pid = stack.enter_context(_holder(name, folder, own / "tmp", hidden))
            _ip(switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
            _ip(switch, "link", "set", name, "master", "bridge", "up")
            _ip(pid, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            _ip(pid, "link", "set", "eth0", "up")
            host = Host(f"{NETWORK}.{number}", own, pid)
            stack.callback(host.kill)
            made.append(host)
        yield made


@contextmanager
def _holder(name: str, folder: Path, tmp: Path | None = None, hidden: Sequence[Path] = ()) -> Iterator[int]:
    """Yield the id of a process with namespaces of its own, which last as long as it does.

    tmp: what is /tmp there. hidden: folders that are empty there.
    """
    ready = folder / f"{name}.ready"
    mount = f"mount --bind {tmp} /tmp && " if tmp else ""
    mount += "".join(f"mount -t tmpfs -o ro none {each} && " for each in hidden)
    script = f"{mount}hostname {name} && ip link set lo up && touch {ready} && exec sleep infinity"
    process = subprocess.Popen(
        ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", script],
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + READY_S
        while not ready.exists():
            assert process.poll() is None, f"the host {name} ended"
            assert time.monotonic() < deadline, f"the host {name} did not start"
            time.sleep(0.02)
        yield process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _ip(holder: int, *arguments: str) -> None:
    subprocess.run(["nsenter", "-t", str(holder), "--net", "--", "ip", *arguments], check=True)
