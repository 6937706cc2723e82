"""When a retraining begins by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycls.control_plane.trigger_watch import TriggerWatch
from raycls.drift.examine import Finding
from raycls.errors import RegistryError, UnknownModelError
from raycls.lifecycle import drift_windows, retraining, triggers
from raycls.lifecycle.intake import add
from raycls.lifecycle.retraining import Wanted
from raycls.lifecycle.review import accept
from raycls.lifecycle.triggers import Found, begin, described, due
from raycls.lifecycle.uploads import Uploads
from raycls.serving import state
from raycls.serving.state import Trigger
from tests.unit.lifecycle.pictures import CLASSES, digest, png

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO, HOURS_AGO = NOW - timedelta(days=8), NOW - timedelta(hours=20)


@pytest.mark.parametrize(
    ("trigger", "found", "reason"),
    [
        ({"accepted": 200}, Found(199, True, LONG_AGO), ""),
        ({"accepted": 200}, Found(200, False, LONG_AGO), "200 pictures were accepted"),
        ({"accepted": 200}, Found(200, False, None), "200 pictures were accepted"),
        ({"accepted": 200}, Found(900, True, HOURS_AGO), ""),
        ({"drift": True}, Found(900, False, LONG_AGO), ""),
        (
            {"drift": True},
            Found(0, True, LONG_AGO),
            "the pictures of the last window differ from those of val",
        ),
        ({"every_days": 7}, Found(0, False, LONG_AGO), "the last retraining is 7 days ago"),
        ({"every_days": 9}, Found(0, False, LONG_AGO), ""),
        ({"every_days": 9}, Found(0, False, None), "the model was never retrained"),
    ],
)
def test_each_trigger_for_itself_and_at_most_one_a_day(trigger: dict, found: Found, reason: str) -> None:
    assert due(Trigger(model="pets", **trigger), found, NOW) == reason


def test_what_a_failed_retraining_used_counts_again_and_old_drift_does_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = SimpleNamespace(reference="pets/3")
    monkeypatch.setattr(triggers.registry, "champion", lambda name: version)
    monkeypatch.setattr(triggers.registry, "checkpoint", lambda version: Path())
    monkeypatch.setattr(triggers, "load_card", lambda directory: SimpleNamespace(dataset="pets"))
    add(Uploads(), "pets", [("x", png(1))], label="cat", sender="ann", classes=CLASSES)
    accept(Uploads(), "pets", [digest(png(1))], by="eve")
    alarm = Finding("brightness", 1.0, 0.0, 1.0, True)
    window = {"version": "pets/3", "images": 2000, "findings": (alarm,)}
    trigger = Trigger(model="pets", accepted=1)
    began = retraining.begin(Wanted(model="pets"), by="ada")
    created = datetime.fromisoformat(began.created)
    for hours, drifts in ((-1, False), (1, True)):
        ended = (created + timedelta(hours=hours)).isoformat()
        drift_windows.keep([drift_windows.DriftWindow(began=ended, ended=ended, **window)])
        assert triggers.look(trigger).drifts is drifts
    later = (created + timedelta(hours=1)).isoformat()
    retraining.save(began.model_copy(update={"created": later, "state": "done"}))
    assert triggers.look(trigger).accepted == 0
    retraining.save(began.model_copy(update={"created": later, "state": "failed"}))
    assert triggers.look(trigger).accepted == 1


def test_a_broken_model_does_not_stop_the_triggers_of_others(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tuple(Trigger(model=name, accepted=1) for name in ("broken", "pets"))
    state.change(lambda now: now.model_copy(update={"triggers": both}))

    def look(trigger: Trigger) -> Found:
        if trigger.model == "broken":
            raise RegistryError("its checkpoint is gone")
        return Found(5, False, None)

    monkeypatch.setattr(triggers, "look", look)
    TriggerWatch().step(NOW)
    assert [record.wanted.model for record in retraining.records()] == ["pets"]


def test_a_trigger_is_described_in_words() -> None:
    trigger = Trigger(model="pets", accepted=2000, every_days=7, then="promote")
    assert described(trigger) == "after 2,000 accepted pictures, or 7 days after the last time; then promote"


def test_two_looks_on_a_day_begin_one_retraining(home: Path) -> None:
    trigger = Trigger(model="pets", accepted=1, then="promote")
    first = begin(trigger, "5 pictures were accepted", NOW)
    assert begin(trigger, "6 pictures were accepted", NOW + timedelta(hours=3)).id == first.id
    assert (first.wanted.then, first.by) == ("promote", "trigger: 5 pictures were accepted")
    assert len(retraining.records()) == 1


def test_a_trigger_is_one_of_a_known_model_and_can_be_taken_away(home: Path) -> None:
    with pytest.raises(UnknownModelError):
        triggers.set_trigger(Trigger(model="pets", accepted=1))
    state.change(lambda now: now.model_copy(update={"triggers": (Trigger(model="pets", accepted=1),)}))
    triggers.remove_trigger("pets")
    assert state.load().triggers == ()
