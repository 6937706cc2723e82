"""What is known of each picture that was sent: the sum of the events in the log.

    records = records_of(log.read())
    records.of["pets", sha256].state

The sum is the same on every machine, because it depends on the events alone. This module knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from raycls.lifecycle.log import Event

Source = Literal["upload", "captured"]
State = Literal["waiting", "accepted", "rejected", "expired", "purged"]
REVIEWED: tuple[State, ...] = ("waiting", "accepted", "rejected")  # the others have no picture any more


@dataclass(frozen=True)
class Decision:
    """One row of a picture's history. time: seconds since 1970."""

    by: str
    time: float
    from_state: str
    to_state: str
    from_label: str
    to_label: str


@dataclass(frozen=True)
class Record:
    """One picture of one dataset. size: bytes. width and height: pixels. prediction: what a captured one was taken for.

    name: of the dataset and of its models. time: when it was sent, in seconds since 1970.
    """

    name: str
    sha256: str
    label: str
    sender: str
    source: Source
    time: float
    state: State
    size: int
    width: int
    height: int
    prediction: dict[str, Any] = field(default_factory=dict)
    history: tuple[Decision, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def decided(self, event: Event, state: State, label: str | None = None) -> Record:
        """Return the record after a decision."""
        label = label or self.label
        step = Decision(event["by"], event["time"], self.state, state, self.label, label)
        return replace(self, state=state, label=label, history=(*self.history, step))


@dataclass(frozen=True)
class Records:
    """All records by name and SHA-256, and the digests of the pictures that must never come back."""

    of: dict[tuple[str, str], Record]
    purged: frozenset[str]

    def live(self) -> set[str]:
        """Return the digests of all pictures that a record needs."""
        return {sha256 for (_, sha256), record in self.of.items() if record.state in REVIEWED}

    def stored_bytes(self) -> int:
        """Return the size of all pictures, each counted once."""
        return sum(
            {sha: record.size for (_, sha), record in self.of.items() if record.state in REVIEWED}.values()
        )


def records_of(events: Iterable[Event]) -> Records:
    """Return the sum of all events, which are in the order of their times.

    Of two adds of one picture the first counts. A picture that somebody sends replaces one that was only captured.
    """
    of: dict[tuple[str, str], Record] = {}
    purges: dict[str, Event] = {}
    for event in events:
        if event["kind"] == "purged":
            purges.setdefault(event["sha256"], event)
            continue
        key = (event["name"], event["sha256"])
        record = of.get(key)
        if event["kind"] == "added":
            if record is None or replaces(event["source"], record):
                of[key] = _added(event, record)
        elif record is not None and record.state in REVIEWED:
            if event["state"] == "expired" and record.state == "accepted":
                continue  # somebody accepted it while it was about to expire
            of[key] = record.decided(event, event["state"], event.get("label"))
    # Last, because the clock of another machine may have been behind.
    for key, record in of.items():
        if purge := purges.get(key[1]):
            of[key] = record.decided(purge, "purged")
    return Records(of, frozenset(purges))


def replaces(source: str, record: Record) -> bool:
    """Return whether a picture from this source is new although there is this record of it."""
    unseen = record.source == "captured" and record.state == "waiting" and source != "captured"
    return record.state == "expired" or unseen


def expiry(record: Record) -> Event:
    """Return the event that says that a picture is no longer stored."""
    return {
        **{"kind": "decided", "name": record.name, "sha256": record.sha256},
        **{"by": "raycls", "state": "expired"},
    }


def _added(event: Event, former: Record | None) -> Record:
    return Record(
        name=event["name"],
        sha256=event["sha256"],
        label=event["label"],
        sender=event["by"],
        source=event["source"],
        time=event["time"],
        state="waiting",
        size=event["size"],
        width=event["width"],
        height=event["height"],
        prediction=event.get("prediction", {}),
        history=former.history if former else (),
    )
