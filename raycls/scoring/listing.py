"""The listing of a source: it is written into the ledger, and the numbers of its parts are a dataset of Ray Data.

    with meanwhile(source, ledger) as early:
        cluster.connect()                       # takes seconds, in which the first parts are listed
    numbers = part_numbers(source, output, early.known, written=ledger.written(), options={})

What the driver has not listed by then is listed by a task of Ray Data, beside the scoring: so the first picture does
not wait for the last name, and no process has more names in memory than one folder has. A listing that was broken off
is made again from its start and compared with what was written: the names of a folder have no end to go on from.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raycls.data.files import shown
from raycls.data.sources.pictures import Picture, PictureSource, pictures
from raycls.errors import DataError, RayclsError
from raycls.scoring.ledger import Ledger, Listing
from raycls.scoring.parts import divided

if TYPE_CHECKING:
    from ray.data import Dataset

BLOCK = pa.schema({"part": pa.int64(), "failure": pa.string()})
MOST_KNOWN = 1000  # parts that the driver lists: each becomes an object of Ray's


class Early:
    """The parts that the driver lists while Ray starts: `known` of them, from the first on."""

    def __init__(self, source: PictureSource, ledger: Ledger, listed: Iterator[Picture] | None):
        self.known = 0
        self._source, self._ledger, self._listed = source, ledger, listed
        self._failure: RayclsError | None = None
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._list, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop, and raise the DataError that the listing ended with."""
        self._enough.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _list(self) -> None:
        try:
            for number in list_parts(self._source, self._ledger, self._listed):
                self.known = number + 1
                if self.known == MOST_KNOWN or self._enough.is_set():
                    return
        except RayclsError as error:
            self._failure = error


@contextmanager
def meanwhile(
    source: PictureSource, ledger: Ledger, listed: Iterator[Picture] | None = None
) -> Iterator[Early]:
    """List a source while the body runs. Raises DataError afterwards, where it cannot be listed.

    listed: all its pictures, where their listing has begun. A second one would ask for the names of a folder again.
    """
    early = Early(source, ledger, listed)
    yield early
    early.end()


def part_numbers(
    source: PictureSource, output: str, known: int, *, written: Set[int], options: dict[str, Any]
) -> Dataset:
    """Return the numbers of the parts that are not written, each as one block with the columns of BLOCK.

    known: the parts that are listed for sure; a task lists the others, where the listing has not ended there. Its last
    row may have a failure in place of a part: why the source cannot be listed. options: of Ray, for that task.
    """
    import ray
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    def blocks() -> Iterator[pa.Table]:
        try:
            for number in list_parts(source, Ledger(output)):
                if number >= known and number not in written:
                    yield _block(number)
        except RayclsError as error:
            yield _block(-1, str(error))

    class Listed(Datasource):
        def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
            return [ReadTask(blocks, BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None))]

        def estimate_inmemory_data_size(self) -> None:
            return None

    listing = Ledger(output).listing()
    first = [_block(number) for number in range(known) if number not in written]
    if listing and listing.parts == known and first:
        return ray.data.from_arrow(first)
    rest = ray.data.read_datasource(Listed(), override_num_blocks=1, **options)
    return ray.data.from_arrow(first).union(rest) if first else rest


def _block(number: int, failure: str = "") -> pa.Table:
    return pa.table([[number], [failure]], schema=BLOCK)


def list_parts(
    source: PictureSource, ledger: Ledger, listed: Iterator[Picture] | None = None
) -> Iterator[int]:
    """Yield the number of each part as soon as the ledger lists it, always all of them. listed: as in `meanwhile`.

    Raises DataError, also where a part has other pictures than the ledger lists.
    """
    if (listing := ledger.listing()) is not None:
        yield from range(listing.parts)
        return
    plan = ledger.plan()
    assert plan
    digest = hashlib.sha256()
    number = count = 0
    try:
        for number, part in enumerate(divided(listed or pictures(source), plan.part), 1):
            content = json.dumps(part).encode()
            digest.update(content)
            count += len(part)
            known = ledger.digest(number - 1)
            if not known:
                ledger.list_part(number - 1, content, digest.hexdigest())
            elif known != digest.hexdigest():
                raise DataError(
                    f"{source.shown} has changed since its listing was broken off: score it into a new output"
                )
            yield number - 1
    except OSError as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise DataError(f"{source.shown} cannot be listed: {reason}") from error
    ledger.end_listing(Listing(parts=number, pictures=count, fingerprint=digest.hexdigest()))
