"""Ending a session whole, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raycls.cluster.processes import SessionLeader, birth, psutil

# A leader that ignores SIGTERM, with a child that ignores it too and a grandchild in a session of its own.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = "import time; time.sleep(60)"
child = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
child += f"subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True);"
child += "open(sys.argv[1], 'w').close(); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child, sys.argv[1]])
time.sleep(60)
"""


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[SessionLeader]:
    ready = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", STUBBORN, str(ready)], start_new_session=True)
    found = SessionLeader.of(process.pid)
    while not ready.exists():
        time.sleep(0.05)
    yield found
    for member in found.members():
        member.kill()
    process.wait(10)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycls.cluster.processes.TERM_S", 0.5)


def test_everything_ends_even_what_ignores_sigterm(leader: SessionLeader) -> None:
    members = leader.members()
    assert len(members) == 3
    assert leader.end() == []
    assert not leader.alive()
    assert not any(psutil.pid_exists(p.pid) and p.status() != psutil.STATUS_ZOMBIE for p in members)


def test_what_an_ended_leader_left_is_still_found(leader: SessionLeader) -> None:
    psutil.Process(leader.pid).kill()
    while leader.alive():
        time.sleep(0.05)
    assert len(leader.members()) == 2
    assert leader.end() == []


def test_a_recycled_id_is_somebody_else(leader: SessionLeader) -> None:
    stranger = replace(leader, born=leader.born + "1")
    assert not stranger.alive()
    assert stranger.end() == []
    assert leader.alive()


def test_a_step_of_the_clock_makes_nobody_a_stranger(
    leader: SessionLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start time of a process is the time of the boot, which moves with the clock, and the ticks since then."""
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self, *_: create_time(self) + 3600)
    assert leader.alive()
    assert len(leader.members()) == 3
    monkeypatch.undo()


def test_a_process_that_does_not_exist_has_no_birth() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    with pytest.raises(psutil.NoSuchProcess):
        birth(ended.pid)
