"""When a retraining begins by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raycls.errors import UnknownModelError
from raycls.lifecycle import retraining, triggers
from raycls.lifecycle.triggers import Found, begin, due
from raycls.serving import state
from raycls.serving.state import Trigger

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
        ({"every_days": 9}, Found(0, False, None), "the last retraining is 9 days ago"),
    ],
)
def test_each_trigger_for_itself_and_at_most_one_a_day(trigger: dict, found: Found, reason: str) -> None:
    assert due(Trigger(model="pets", **trigger), found, NOW) == reason


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
