"""Tests of what all programs share: how they are interrupted."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal, subprocess, time
from raycls import command

def interrupt():
    if not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100_000):  # Python looks for signals between steps
            pass

sent = []
os.register_at_fork(before=interrupt)

def main(arguments):
    subprocess.run(["true"], preexec_fn=lambda: None)  # forks as Ray does
    time.sleep(5)
    print("went on")

command.run(main)
"""


def test_ctrl_c_in_the_middle_of_a_fork_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
