"""Events of the workers arrive once and in order."""

from __future__ import annotations

import threading

from raycls.training.events import Channel, _events


def test_events_arrive_once_in_order_and_to_the_end(ray_session: None) -> None:
    channel, other = Channel(), Channel()
    events = [["step", 1, 9], ["epoch", {"epoch": 1, "val_loss": 0.25}], ["step", 2, 9]]
    for event in events:
        channel.put(event)
    other.put(["step", 1, 1])
    over = threading.Event()
    over.set()
    assert list(_events(channel, over, lambda: None)) == events
    assert list(_events(channel, over, lambda: None)) == []
