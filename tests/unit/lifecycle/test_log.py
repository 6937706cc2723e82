"""Many processes write one log, and merge its files meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from raycls.data.place import Folder
from raycls.errors import DataError
from raycls.lifecycle import log as module
from raycls.lifecycle.log import Log
from tests.killed import killed_at


def numbers(log: Log) -> list[int]:
    return [event["number"] for event in log.read()]


def test_events_are_read_in_order_by_every_reader(tmp_path: Path) -> None:
    writer, reader = Log(Folder(tmp_path)), Log(Folder(tmp_path))
    assert writer.read() == ()
    writer.append({"number": number} for number in (1, 2))
    first = reader.read()
    assert reader.read() is first, "nothing new is no new object"
    writer.append([{"number": 3}])
    writer.append([])
    assert numbers(reader) == numbers(writer) == [1, 2, 3]
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2


def test_an_event_comes_after_those_that_its_writer_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the second machine is an hour behind."""
    now = time.time()
    Log(Folder(tmp_path)).append([{"number": 1}])
    behind = Log(Folder(tmp_path))
    behind.read()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    behind.append([{"number": 2}])
    assert numbers(Log(Folder(tmp_path))) == [1, 2]


def test_many_files_are_merged_into_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 5)
    log, other = Log(Folder(tmp_path)), Log(Folder(tmp_path))
    for number in range(30):
        log.append([{"number": number}])
        assert numbers(log) == list(range(number + 1))
        if number % 7 == 0:
            assert numbers(other) == list(range(number + 1))
    assert numbers(other) == list(range(30))
    assert len(list(tmp_path.rglob("*.jsonl"))) <= 7


def test_nothing_is_lost_where_several_write_and_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    errors: list[BaseException] = []

    def write(first: int) -> None:
        log = Log(Folder(tmp_path))
        try:
            for number in range(first, first + 20):
                log.append([{"number": number}])
                log.read()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(100 * each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    expected = [100 * each + number for each in range(4) for number in range(20)]
    assert sorted(numbers(Log(Folder(tmp_path)))) == expected


def test_a_kill_at_any_step_of_a_merge_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    step, count = 1, 0

    def work() -> None:
        log = Log(Folder(tmp_path))
        log.read()
        log.append([{"number": count}])

    while True:
        killed = killed_at(step, work)
        found = numbers(Log(Folder(tmp_path)))
        assert found in (list(range(count)), list(range(count + 1)))
        count = len(found)
        if not killed and step > 12:
            return
        step += 1


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for text in ('{"id": "1"', "[]", '{"id": "1"}', "\xff"):
        (tmp_path / "log/a.jsonl").write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=r"a\.jsonl is damaged"):
            Log(Folder(tmp_path)).read()
