"""Records of retrainings: one for a key, one at a time for a model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from raycls.errors import DataError, UnknownRecordError, UsageError
from raycls.lifecycle import retraining
from raycls.lifecycle.retraining import Retraining, Wanted

PETS = Wanted(model="pets")


def test_the_same_key_gives_one_retraining_however_often_and_at_the_same_time(home: Path) -> None:
    found: list[Retraining] = []
    threads = [
        threading.Thread(target=lambda: found.append(retraining.begin(PETS, by="ada", key="monday")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({record.id for record in found}) == 1
    assert [record.id for record in retraining.records()] == [found[0].id]
    retraining.save(found[0].model_copy(update={"state": "done"}))
    assert retraining.begin(PETS, by="ada", key="monday").state == "done"
    with pytest.raises(UsageError, match="Idempotency-Key was used for another retraining"):
        retraining.begin(Wanted(model="pets", then="promote"), by="ada", key="monday")


def test_one_retraining_at_a_time_for_each_model(home: Path) -> None:
    first = retraining.begin(PETS, by="ada")
    with pytest.raises(UsageError, match=f"retraining {first.id} of pets is not done yet"):
        retraining.begin(PETS, by="bob")
    other = retraining.begin(Wanted(model="flowers"), by="bob")
    retraining.save(first.model_copy(update={"state": "failed"}))
    second = retraining.begin(PETS, by="bob")
    assert {record.id for record in retraining.records()} == {first.id, other.id, second.id}
    assert (second.by, second.state, second.wanted) == ("bob", "waiting", PETS)


@pytest.mark.parametrize("identifier", ["zzz", "../../etc/passwd", "", "a b", "x" * 300])
def test_an_unknown_id_is_said(home: Path, identifier: str) -> None:
    with pytest.raises(UnknownRecordError, match="there is no retraining"):
        retraining.RETRAININGS.load(identifier)


def test_a_damaged_record_is_one_line(home: Path) -> None:
    record = retraining.begin(PETS, by="ada")
    (home / "retrainings" / f"{record.id}.json").write_text("{")
    with pytest.raises(DataError, match=f"the record of retraining {record.id} is damaged"):
        retraining.records()
