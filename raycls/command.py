"""Run the main function of a program as `raycls` runs a command: the same signals, errors and exit codes.

    if __name__ == "__main__":
        command.run(main)

The programs in benchmarks/ end like `raycls`: an error is one line on stderr, and the exit code is the same. This
module knows nothing of arguments.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from raycls.errors import RayclsError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def interruptible() -> None:
    """Make SIGTERM and SIGHUP stop this process as Ctrl-C does. A signal that `nohup` ignores stays ignored.

    No Ctrl-C is lost: Python drops what is raised in the functions that libraries register for a fork, and Ray forks
    some twenty times while it starts.
    """
    sys.unraisablehook = _interrupt_again
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _interrupt_again(dropped: UnraisableHookArgs) -> None:
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.02)  # SIGALRM then, when the fork is over
    else:
        sys.__unraisablehook__(dropped)


def run(main: Callable[[list[str]], None]) -> None:
    """Call main with the command line's arguments. Exit with a RayclsError's exit code, and with 130 when interrupted.

    SIGTERM and a closed terminal interrupt main as Ctrl-C does, so that it can stop the cluster that it started.
    """
    interruptible()
    try:
        main(sys.argv[1:])
    except RayclsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
