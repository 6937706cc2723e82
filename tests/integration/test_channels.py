"""Events of the workers arrive once and in order, by the patch and by Ray's public way."""

from __future__ import annotations

import threading

import pytest

from raycls.ray_patches.guard import CHOICE
from raycls.ray_patches.key_value_channel import KeyValueChannel
from raycls.training.events import ActorChannel, _events, open_channel


@pytest.mark.parametrize("patches", ["", "none"])
def test_events_arrive_once_in_order_and_to_the_end(
    patches: str, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHOICE, patches)
    channel, other = open_channel("pets/attempt-1"), open_channel("pets/attempt-2")
    assert isinstance(channel, ActorChannel if patches == "none" else KeyValueChannel)
    events = [["step", 1, 9], ["epoch", {"epoch": 1, "val_loss": 0.25}], ["step", 2, 9]]
    for event in events:
        channel.put(event)
    other.put(["step", 1, 1])
    over = threading.Event()
    over.set()
    assert list(_events(channel, over, lambda: None)) == events
    assert list(_events(channel, over, lambda: None)) == []
