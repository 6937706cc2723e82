"""The listing in the ledger: it goes on after a kill, and notices a source that has changed meanwhile."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from raycls.data.sources.pictures import pictures
from raycls.errors import DataError
from raycls.scoring import listing as module
from raycls.scoring.ledger import Ledger
from raycls.scoring.listing import list_parts, meanwhile
from raycls.scoring.parts import PartSize
from tests.unit.scoring.conftest import MakeTask

SMALL = PartSize(pictures=10)


def names(ledger: Ledger, parts: int) -> list[str]:
    return [picture.name for part in range(parts) for picture in ledger.pictures(part)]


def test_every_file_is_listed_once_and_the_end_is_a_record(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos, size=SMALL)
    ledger = Ledger(task.output)
    assert list(list_parts(task.source, ledger)) == [0, 1, 2, 3]
    listed = names(ledger, 4)
    assert len(listed) == len(set(listed)) == 34
    listing = ledger.listing()
    assert listing
    assert (listing.parts, listing.pictures, len(listing.fingerprint)) == (4, 34, 64)
    # Afterwards it is read from the ledger, whatever becomes of the source.
    (photos / "0" / "00.png").unlink()
    assert list(list_parts(task.source, ledger)) == [0, 1, 2, 3]
    assert names(ledger, 4) == listed


def test_a_listing_that_was_broken_off_is_made_again_the_same(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos, size=SMALL)
    ledger = Ledger(task.output)
    assert list(itertools.islice(list_parts(task.source, ledger), 2)) == [0, 1]
    assert ledger.listing() is None
    before = names(ledger, 2)
    assert list(list_parts(task.source, ledger)) == [0, 1, 2, 3]
    assert names(ledger, 2) == before


def test_a_source_that_changed_while_it_was_listed_is_refused(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos, size=SMALL)
    ledger = Ledger(task.output)
    list(itertools.islice(list_parts(task.source, ledger), 2))
    (photos / "0" / "000.png").write_bytes(b"new")
    with pytest.raises(
        DataError, match="has changed since its listing was broken off: score it into a new output"
    ):
        list(list_parts(task.source, ledger))


def test_the_fingerprint_changes_with_a_file(make_task: MakeTask, photos: Path) -> None:
    found = set()
    for number in range(2):
        task = make_task(photos)
        ledger = Ledger(f"{task.output}{number}")
        ledger.begin(task.plan)
        list(list_parts(task.source, ledger))
        listing = ledger.listing()
        assert listing
        found.add(listing.fingerprint)
        (photos / "0" / "00.png").write_bytes(b"other")
    assert len(found) == 2


def test_a_listing_that_has_begun_goes_on_and_asks_for_no_name_again(
    make_task: MakeTask, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(photos, size=SMALL)
    ledger = Ledger(task.output)
    listed = list(pictures(task.source))
    monkeypatch.setattr(module, "pictures", None)  # so that to ask fails
    with meanwhile(task.source, ledger, iter(listed)) as early:
        while ledger.listing() is None and early._thread.is_alive():
            pass
    assert names(ledger, early.known) == [picture.name for picture in listed]


def test_the_driver_lists_the_first_parts_while_ray_starts(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos, size=SMALL)
    ledger = Ledger(task.output)
    with meanwhile(task.source, ledger) as early:
        while ledger.listing() is None:
            pass
    assert early.known == 4
    # As where there was time for two parts alone: the task lists the others.
    (Path(task.output) / "_ledger" / "listing.json").unlink()
    (photos / "2" / "new.png").write_bytes(b"new")
    with pytest.raises(DataError, match="has changed"), meanwhile(task.source, ledger) as early:
        while early._thread.is_alive():
            pass
    assert 0 < early.known < 4
