"""How a program of benchmarks/ ends: an error is one line on stderr, and the exit code that of `raycls`.

if __name__ == "__main__":
    command.run(main)
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from raycls.errors import RayclsError


def interruptible() -> None:
    """Have SIGTERM and SIGHUP end this process as Ctrl-C does; what `nohup` has it ignore stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def run(main: Callable[[list[str]], None]) -> None:
    """Call main with the command line. Exits with a RayclsError's exit code, and with 130 when interrupted.

    SIGTERM and a closed terminal interrupt it, too: what it has started, like a cluster, does not end by itself.
    """
    interruptible()
    try:
        main(sys.argv[1:])
    except RayclsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
