"""Kills a piece of work before each of its steps on the disk, one after another."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a forked process that is killed before its step-th sync, rename or removal of a file.

    Return whether it came so far. A process that was not killed must succeed.
    """
    child = os.fork()
    if not child:
        steps = 0

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        os.fsync = dying(os.fsync)
        for name in ("replace", "rename", "unlink"):
            setattr(Path, name, dying(getattr(Path, name)))
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False
