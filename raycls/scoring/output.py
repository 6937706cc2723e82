"""What must hold of an output before it is written to, and what an earlier call has left there.

check_apart(source, "scores/")
with alone("scores/"):
    before = counted(ledger, plan, ledger.written())
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raycls import progress
from raycls.data.files import is_uri, shown
from raycls.data.sources.pictures import PictureSource
from raycls.errors import BusyError, DataError, UsageError
from raycls.scoring.ledger import Ledger, Plan
from raycls.scoring.rows import Counts, counts

READERS = 16  # threads that look at the scores of an earlier call


def counted(ledger: Ledger, plan: Plan, written: set[int]) -> Counts:
    """Return what earlier calls have written."""

    def count(part: int) -> Counts:
        file = ledger.scores(part, plan.format)
        assert file is not None
        return counts(file, plan.format)

    total = Counts()
    if not written:
        return total
    with (
        progress.bar(f"looking at {len(written):,} parts that are written", len(written)) as bar,
        ThreadPoolExecutor(READERS) as pool,
    ):
        for found in pool.map(count, sorted(written)):
            total = total.plus(found)
            bar.advance()
    return total


@contextlib.contextmanager
def alone(output: str) -> Iterator[None]:
    """Keep other calls of this machine away from the same folder. Two calls for a bucket score the same, in vain.

    A new folder in which nothing was written is removed.
    """
    if is_uri(output):
        yield
        return
    folder = Path(output)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written: {error.strerror}. Name a folder that you may write to"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"another process scores into {output}: wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def check_apart(source: PictureSource, output: str) -> None:
    """Raise UsageError where scores would lie among the pictures, and be listed with them."""
    if source.kind != "folder":
        return
    inside = shown(output).partition("?")[0] if is_uri(output) else str(Path(output).absolute())
    above = source.shown.partition("?")[0]
    if f"{inside.rstrip('/')}/".startswith(f"{above.rstrip('/')}/"):
        raise UsageError(f"the output {shown(output)} lies in the source: name a folder beside it")
