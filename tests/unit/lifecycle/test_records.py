"""The sum of the events, whatever their order of arrival."""

from __future__ import annotations

from typing import Any

from raycls.lifecycle.records import Record, records_of

SHA = "a" * 64


def added(time: float, **changes: Any) -> dict[str, Any]:
    usual = {"name": "pets", "sha256": SHA, "label": "cat", "by": "ann", "source": "upload", "size": 10}
    return {"kind": "added", "time": time, "width": 1, "height": 1, **usual, **changes}


def decided(time: float, state: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "decided",
        "time": time,
        "name": "pets",
        "sha256": SHA,
        "by": "eve",
        "state": state,
        **changes,
    }


def purged(time: float) -> dict[str, Any]:
    return {"kind": "purged", "time": time, "sha256": SHA, "by": "eve"}


def the_record(*events: dict[str, Any]) -> Record:
    return records_of(events).of["pets", SHA]


def test_of_two_adds_the_first_counts() -> None:
    record = the_record(added(1), added(2, label="dog", by="bob"))
    assert (record.label, record.sender, record.time, record.state) == ("cat", "ann", 1, "waiting")


def test_a_history_says_who_changed_what_and_when() -> None:
    record = the_record(added(1), decided(2, "accepted", label="dog"), decided(3, "rejected"))
    assert (record.state, record.label) == ("rejected", "dog")
    steps = [(s.by, s.time, s.from_state, s.to_state, s.from_label, s.to_label) for s in record.history]
    assert steps == [
        ("eve", 2, "waiting", "accepted", "cat", "dog"),
        ("eve", 3, "accepted", "rejected", "dog", "dog"),
    ]


def test_a_purge_is_for_good_even_if_a_clock_was_wrong() -> None:
    for events in ([added(1), purged(2)], [added(1), purged(2), added(3), decided(4, "accepted")]):
        records = records_of(events)
        assert records.of["pets", SHA].state == "purged"
        assert records.live() == set()
    assert the_record(purged(1), added(2)).state == "purged"


def test_what_somebody_sends_replaces_what_was_only_captured() -> None:
    captured = added(1, source="captured", by="capture", label="dog")
    assert the_record(captured, added(2)).sender == "ann"
    assert the_record(captured, decided(2, "accepted"), added(3)).sender == "capture"
    assert the_record(added(1), added(2, source="captured", by="capture")).sender == "ann"


def test_an_accepted_picture_does_not_expire_and_an_expired_one_may_come_again() -> None:
    captured = added(1, source="captured")
    assert the_record(captured, decided(2, "accepted"), decided(3, "expired")).state == "accepted"
    assert the_record(captured, decided(2, "expired"), decided(3, "accepted")).state == "expired"
    assert the_record(captured, decided(2, "expired"), added(3)).state == "waiting"


def test_bytes_are_counted_once_for_all_datasets() -> None:
    records = records_of([added(1), added(2, name="other"), added(3, sha256="b" * 64), purged(4)])
    assert records.stored_bytes() == 10
    assert records.live() == {"b" * 64}
