"""The task of Ray Data that lists a source: it writes the listing into the ledger, and yields the numbers of its parts.

    numbers = part_numbers(source, output, written=ledger.written())     # a ray.data.Dataset of one row for each part

It runs beside the scoring, so that the first picture need not wait for the last name, and the listing is in no
process's memory. A listing that was broken off is made again from its start and compared with what was written, because
the names of a folder have no end to go on from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raycls.data.files import shown
from raycls.data.sources.pictures import PictureSource, pictures
from raycls.errors import DataError, RayclsError
from raycls.scoring.ledger import Ledger, Listing
from raycls.scoring.parts import divided

if TYPE_CHECKING:
    from ray.data import Dataset

BLOCK = pa.schema({"part": pa.int64(), "failure": pa.string()})


def part_numbers(source: PictureSource, output: str, written: Set[int], options: dict[str, Any]) -> Dataset:
    """Return the numbers of the parts that are not written, each as one block with the columns of BLOCK.

    The last row may have a failure in place of a part: why the source cannot be listed. options: of Ray, for the task.
    """
    import ray
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    def blocks() -> Iterator[pa.Table]:
        try:
            for number in list_parts(source, Ledger(output)):
                if number not in written:
                    yield pa.table([[number], [""]], schema=BLOCK)
        except RayclsError as error:
            yield pa.table([[-1], [str(error)]], schema=BLOCK)

    class Listed(Datasource):
        def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
            return [ReadTask(blocks, BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None))]

        def estimate_inmemory_data_size(self) -> None:
            return None

    return ray.data.read_datasource(Listed(), override_num_blocks=1, **options)


def list_parts(source: PictureSource, ledger: Ledger) -> Iterator[int]:
    """Yield the number of each part as soon as the ledger lists it, always all of them.

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
        for number, part in enumerate(divided(pictures(source), plan.part), 1):
            listed = json.dumps(part).encode()
            digest.update(listed)
            count += len(part)
            known = ledger.digest(number - 1)
            if not known:
                ledger.list_part(number - 1, listed, digest.hexdigest())
            elif known != digest.hexdigest():
                raise DataError(
                    f"{source.shown} has changed since its listing was broken off: score it into a new output"
                )
            yield number - 1
    except OSError as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise DataError(f"{source.shown} cannot be listed: {reason}") from error
    ledger.end_listing(Listing(parts=number, pictures=count, fingerprint=digest.hexdigest()))
