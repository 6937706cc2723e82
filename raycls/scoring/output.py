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
from urllib.parse import unquote, urlsplit

from raycls import progress
from raycls.data.files import has_password, is_uri, shown, without_password
from raycls.data.sources.pictures import PictureSource
from raycls.errors import BrokenOffError, BusyError, DataError, UsageError
from raycls.scoring.ledger import Ledger, Plan
from raycls.scoring.rows import Counts, counts

READERS = 16  # threads that look at the scores of an earlier call


def counted(ledger: Ledger, plan: Plan, written: set[int]) -> Counts:
    """Return what earlier calls have written. Raises DataError for a part that cannot be read."""

    def count(part: int) -> Counts:
        file = ledger.scores(part, plan.format)
        try:
            if file is not None:
                return counts(file, plan.format)
            reason = "it is gone"
        except (ValueError, LookupError, OSError) as error:  # pyarrow's own are among them
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"part-{part:08}.{plan.format} of the output cannot be read: {reason}. Remove all files of that part, and "
            "run the same command again, which scores it again"
        )

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
    """Keep other calls of this machine away from the same folder, where its file system has locks.

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
        except BlockingIOError:
            raise BusyError(f"another process scores into {output}: wait for it, or stop it") from None
        except OSError:  # a file system without locks, like some that are mounted
            pass
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
    inside, above = _resolved(output), _resolved(source.address)
    if f"{inside.rstrip('/')}/".startswith(f"{above.rstrip('/')}/"):
        raise UsageError(f"the output {shown(output)} lies in the source: name a folder beside it")


def _resolved(address: str) -> str:
    """Return where an address leads: a path without links, also that of file://…, or a URI without its secrets."""
    if address.startswith("file://"):
        address = unquote(urlsplit(address).path)
    if not is_uri(address):
        return str(Path(address).resolve())
    return (without_password(address) if has_password(address) else address).partition("?")[0]


def check_ours(ledger: Ledger, plan: Plan) -> None:
    """Raise BrokenOffError if another call has begun other scores in the same output meanwhile.

    Nothing keeps two calls away from one bucket: of two that begin at once, the plan of the second one stays.
    """
    found = ledger.plan()
    if found:
        found = found.model_copy(update={"begun": plan.begun, "engine": found.engine or plan.engine})
    if found != plan:
        raise BrokenOffError(
            "another call has begun other scores in the same output, and parts of both may lie there: give each call "
            "a new output of its own"
        )
