"""Zips in pieces: each piece has its place, limits hold, and a process that is killed leaves what it had."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from raycls.errors import RefusedError, UnknownRecordError, UploadError, UploadTooLargeError
from raycls.lifecycle.parcels import ABANDONED_S, ENDED_OF_ONE, KEPT_S, MOST, MOST_OF_ONE, Parcels


@pytest.fixture
def parcels(tmp_path: Path) -> Parcels:
    return Parcels(tmp_path / "parcels", 1000)


def test_pieces_become_the_file_that_was_sent(parcels: Parcels, tmp_path: Path) -> None:
    parcel = parcels.begin("ann", "pets", "photos.zip", 10)
    assert parcels.append(parcel.id, 0, b"abcd").received == 4
    again = Parcels(tmp_path / "parcels", 1000)  # another process, after a kill
    assert again.load(parcel.id).received == 4
    whole = again.append(parcel.id, 4, b"efghij")
    assert (whole.received, whole.state) == (10, "checking")
    with again.open(parcel.id) as file:
        assert file.read() == b"abcdefghij"
    ended = again.end(parcel.id, answer={"taken": []})
    assert (ended.state, parcels.load(parcel.id).answer) == ("done", {"taken": []})
    with pytest.raises(UnknownRecordError):
        again.open(parcel.id)


def test_a_piece_at_another_place_or_beyond_the_end_is_refused(parcels: Parcels) -> None:
    parcel = parcels.begin("ann", "pets", "photos.zip", 10)
    parcels.append(parcel.id, 0, b"abcd")
    for at in (0, 3, 5):
        with pytest.raises(RefusedError, match="go on there"):
            parcels.append(parcel.id, at, b"x")
    with pytest.raises(UploadError, match="has more"):
        parcels.append(parcel.id, 4, b"x" * 7)
    assert parcels.load(parcel.id).received == 4


def test_bytes_that_a_killed_process_wrote_without_its_record_are_written_again(
    parcels: Parcels, tmp_path: Path
) -> None:
    parcel = parcels.begin("ann", "pets", "photos.zip", 6)
    parcels.append(parcel.id, 0, b"ab")
    with (tmp_path / "parcels" / parcel.id / "data.zip").open("ab") as file:
        file.write(b"??")
    parcels.append(parcel.id, 2, b"cdef")
    with parcels.open(parcel.id) as opened:
        assert opened.read() == b"abcdef"


@pytest.mark.parametrize("size", [0, -1, 1001])
def test_a_parcel_has_a_size_within_the_limit(parcels: Parcels, size: int) -> None:
    with pytest.raises(UploadTooLargeError, match="1 to 1,000 bytes"):
        parcels.begin("ann", "pets", "photos.zip", size)


def test_a_new_parcel_takes_the_place_of_the_senders_oldest(parcels: Parcels, tmp_path: Path) -> None:
    begun = [parcels.begin("ann", "pets", "photos.zip", 10) for _ in range(MOST_OF_ONE)]
    parcels.append(begun[0].id, 0, bytes(10))  # is checked now
    for age, parcel in enumerate(reversed(begun)):
        _touch(tmp_path, parcel.id, 10.0 * age)
    parcels.begin("ann", "pets", "photos.zip", 10)
    with pytest.raises(UnknownRecordError):
        parcels.load(begun[1].id)
    assert parcels.load(begun[0].id).state == "checking"
    assert [parcel.id for parcel in parcels.tidy()] == [begun[0].id]


def test_all_senders_together_have_a_limit_which_what_is_abandoned_leaves(
    parcels: Parcels, tmp_path: Path
) -> None:
    begun = [parcels.begin(f"sender{i}", "pets", "photos.zip", 10) for i in range(MOST)]
    with pytest.raises(RefusedError, match="too many uploads"):
        parcels.begin("ann", "pets", "photos.zip", 10)
    _touch(tmp_path, begun[3].id, ABANDONED_S + 1)
    parcels.begin("ann", "pets", "photos.zip", 10)


def test_a_few_answers_of_each_sender_are_kept_for_a_day(parcels: Parcels, tmp_path: Path) -> None:
    ended = []
    for age in range(ENDED_OF_ONE + 3):
        ended.append(parcels.begin("ann", "pets", "photos.zip", 10).id)
        parcels.end(ended[-1], error="no zip")
        _touch(tmp_path, ended[-1], 100.0 - age)
    last = parcels.begin("ann", "pets", "photos.zip", 10).id
    parcels.end(last, error="the last")
    assert len(list((tmp_path / "parcels").iterdir())) == ENDED_OF_ONE
    assert parcels.load(last).error == "the last"
    _touch(tmp_path, last, KEPT_S + 1)
    assert parcels.tidy() == []
    with pytest.raises(UnknownRecordError):
        parcels.load(last)


def test_what_has_ended_does_not_end_again(parcels: Parcels) -> None:
    parcel = parcels.begin("ann", "pets", "photos.zip", 10)
    parcels.end(parcel.id, answer={"taken": []})
    assert parcels.end(parcel.id, error="late").state == "done"
    parcels.remove(parcel.id)
    with pytest.raises(UnknownRecordError):
        parcels.load(parcel.id)


def _touch(folder: Path, identifier: str, age: float) -> None:
    before = time.time() - age
    os.utime(folder / "parcels" / identifier / "parcel.json", (before, before))


@pytest.mark.parametrize("identifier", ["", "..", "../../etc", "0" * 31, "g" * 32, "0" * 32])
def test_no_path_is_made_of_what_is_no_identifier(parcels: Parcels, identifier: str) -> None:
    with pytest.raises(UnknownRecordError):
        parcels.load(identifier)
