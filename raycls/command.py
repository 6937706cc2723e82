"""The start and the end of a command: signals, error messages and exit codes.

    if __name__ == "__main__":
        command.run(main)

The programs in benchmarks/ end like `raycls`: an error is one line on stderr, and the exit code is the same. This
module knows nothing of arguments.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from raycls.errors import RayclsError


def interruptible() -> None:
    """Make SIGTERM and SIGHUP end this process like Ctrl-C.

    A signal that is already ignored stays ignored, like SIGHUP under `nohup`.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def run(main: Callable[[list[str]], None]) -> None:
    """Call main with the arguments. Exit with a RayclsError's exit code, and with 130 after an interruption.

    SIGTERM and a closed terminal interrupt main like Ctrl-C, so that it can stop what it has started, like a cluster.
    """
    interruptible()
    try:
        main(sys.argv[1:])
    except RayclsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
