"""Cores that replicas keep to, each a process here."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from raycls.serving.replica.core_pinning import PinnedCore

REPLICA = """
import os, sys, threading
from raycls.serving.replica.core_pinning import PinnedCore

core = PinnedCore([threading.get_native_id()], sys.argv[1])
for line in sys.stdin:
    getattr(core, line.strip())()
    print(*sorted(os.sched_getaffinity(0)), flush=True)
"""


class _Replica:
    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def keep(self) -> set[int]:
        return self._do("keep")

    def leave(self) -> set[int]:
        return self._do("leave")

    def _do(self, what: str) -> set[int]:
        """Those that it runs on then."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return {int(core) for core in self._process.stdout.readline().split()}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def replica(cores: set[int]) -> Iterator[_Replica]:
    process = subprocess.Popen(
        [sys.executable, "-c", REPLICA, f"test-{os.getpid()}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        os.sched_setaffinity(process.pid, cores)
        yield _Replica(process)
    finally:
        process.kill()
        process.communicate()


def test_each_keeps_to_a_core_of_its_own_and_who_finds_none_waits_for_one() -> None:
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    if len(cores) < 2:
        pytest.skip("there is one core")
    with replica(cores) as first, replica(cores) as second, replica(cores) as third:
        one, other = first.keep(), second.keep()
        assert len(one) == len(other) == 1
        assert one | other == cores
        assert third.keep() == cores
        assert first.keep() == one
        assert second.leave() == cores
        assert third.keep() == other
        assert second.keep() == cores
        first.kill()
        assert second.keep() == one


def test_several_threads_that_ask_take_one_core() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("there is one core")
    name, end = f"test-several-{os.getpid()}", threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    core = PinnedCore([thread.native_id for thread in threads if thread.native_id], name)

    def ask() -> None:
        for _ in range(200):
            core.keep()
            core.leave()
        core.keep()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # as often as it can be
    try:
        with ThreadPoolExecutor(8) as pool:
            for asked in [pool.submit(ask) for _ in range(8)]:
                asked.result()
        bound = [os.sched_getaffinity(thread.native_id) for thread in threads if thread.native_id]
        assert len(bound[0]) == 1
        assert bound[0] == bound[1]
        others = PinnedCore([], name)
        others.keep()
        assert others._taken is not None  # one core alone has been taken
    finally:
        sys.setswitchinterval(before)
        end.set()
