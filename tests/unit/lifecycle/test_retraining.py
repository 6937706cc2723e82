"""Records of retrainings: one for a key, one at a time for a model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from raycls.errors import (
    ClusterError,
    ConfigError,
    DataError,
    RegistryError,
    UnknownRecordError,
    UsageError,
)
from raycls.lifecycle import retrain, retraining
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


def test_a_damaged_record_is_told_and_hides_no_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, other = retraining.begin(PETS, by="ada"), retraining.begin(Wanted(model="cars"), by="ada")
    (home / "retrainings" / f"{record.id}.json").write_text("{")
    with pytest.raises(DataError, match=f"the record of retraining {record.id} is damaged"):
        retraining.RETRAININGS.load(record.id)
    for _ in range(2):
        assert retraining.records() == [other]
    assert capsys.readouterr().err.count(f"retrainings/{record.id}.json") == 1


def test_a_retraining_can_be_stopped_once_and_stays_so(home: Path) -> None:
    record = retraining.begin(PETS, by="ada")
    assert retraining.update(record.id, state="running", step="train").step == "train"
    stopped = retraining.stop(record.id, by="eve")
    assert (stopped.state, stopped.error, bool(stopped.ended)) == ("stopped", "stopped by eve", True)
    assert retraining.update(record.id, state="done") == stopped
    with pytest.raises(UsageError, match="it is stopped"):
        retraining.stop(record.id, by="eve")
    assert retraining.begin(PETS, by="bob").is_open


def _steps(monkeypatch: pytest.MonkeyPatch, *found: dict | Exception) -> list[str]:
    """Let the step `train` raise or return these things, one after another."""
    calls, left = [], list(found)

    def step(record: Retraining) -> dict:
        calls.append(record.id)
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(retrain, "STEPS", {"data": lambda record: {"added": 1}, "train": step})
    return calls


def test_what_may_pass_leaves_a_retraining_open_and_the_next_try_ends_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = (
        RegistryError("MLflow does not answer"),
        DataError("the bucket does not answer"),
        ClusterError("no"),
    )
    calls = _steps(monkeypatch, *passing, {"model": "pets/8"})
    record = retraining.begin(PETS, by="ada")
    for error in passing:
        with pytest.raises(type(error)):
            retrain.run(record.id)
        found = retraining.RETRAININGS.load(record.id)
        assert (found.state, found.step, found.error) == ("running", "train", str(error))
    done = retrain.run(record.id)
    assert (done.state, done.error) == ("done", "")
    assert done.done == {"data": {"added": 1}, "train": {"model": "pets/8"}}
    assert retrain.run(record.id) == done
    assert len(calls) == 4


def test_what_does_not_pass_ends_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _steps(monkeypatch, ConfigError("unknown setting"))
    record = retraining.begin(PETS, by="ada")
    with pytest.raises(ConfigError):
        retrain.run(record.id)
    found = retraining.RETRAININGS.load(record.id)
    assert (found.state, found.error) == ("failed", "unknown setting")


def test_a_retraining_that_is_stopped_during_a_step_goes_no_further(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = retraining.begin(PETS, by="ada")

    def step(_: Retraining) -> dict:
        retraining.stop(record.id, by="eve")
        return {}

    monkeypatch.setattr(retrain, "STEPS", {"data": step, "train": lambda _: pytest.fail("it goes on")})
    with pytest.raises(UsageError, match="was stopped by eve"):
        retrain.run(record.id)
    assert retraining.RETRAININGS.load(record.id).state == "stopped"
