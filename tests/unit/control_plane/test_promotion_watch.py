"""Going back from a promotion that does worse, also where the first try does not succeed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycls.control_plane import promotion_watch as watching
from raycls.control_plane.promotion_watch import PromotionWatch
from raycls.errors import ClusterError, RefusedError, UsageError
from raycls.lifecycle import promotion_watch
from raycls.lifecycle.guards import ArmCounts
from raycls.serving.control import rollout

GOOD, BAD = ArmCounts(requests=1000), ArmCounts(requests=1000, errors=300)


class Server:
    """What the watch sees and does: rollbacks that fail as `errors` says, and then succeed."""

    def __init__(self, errors: list[Exception], promoted: bool = True):
        self.errors, self.tries = errors, 0
        kind = "promotion" if promoted else "rollback"
        self.events = [SimpleNamespace(kind=kind, done=True, model="pets", version="7")]

    def rollback(self, name: str, *, reason: str, by: str) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(watching.time, "monotonic", lambda: now.s)
    yield now


def _watched(server: Server, monkeypatch: pytest.MonkeyPatch) -> PromotionWatch:
    monkeypatch.setattr(rollout, "rollback", server.rollback)
    monkeypatch.setattr(watching.history, "events", lambda name: server.events)
    watch = PromotionWatch(watch_s=600)
    watch._look("pets/6", {"a": GOOD})
    watch._look("pets/7", {"b": GOOD})
    return watch


def _is_on() -> bool:
    found = promotion_watch.load("pets")
    return found is not None and found.is_on


def test_a_rollback_that_cannot_be_done_now_is_tried_again_after_a_pause(
    home: Path, monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    server = Server([ClusterError("another promotion is running"), RefusedError("no replica starts")])
    watch = _watched(server, monkeypatch)
    assert server.tries == 0
    for after, tries in (
        (0, 1),
        (1, 1),
        (watching.FIRST_PAUSE_S, 2),
        (1, 2),
        (2 * watching.FIRST_PAUSE_S, 3),
    ):
        clock.s += after
        watch._look("pets/7", {"b": BAD})
        assert server.tries == tries
    assert not _is_on(), "it succeeded"
    watch._look("pets/7", {"b": BAD})
    assert server.tries == 3


def test_a_control_plane_that_is_killed_before_the_end_goes_on_after_its_restart(
    home: Path, monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    server = Server([KeyboardInterrupt()])  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        _watched(server, monkeypatch)._look("pets/7", {"b": BAD})
    assert _is_on()
    PromotionWatch(watch_s=600)._look("pets/7", {"b": BAD})
    assert (server.tries, _is_on()) == (2, False)


def test_without_a_former_champion_nothing_is_tried_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    server = Server([UsageError("the history has no former champion")])
    watch = _watched(server, monkeypatch)
    for _ in range(3):
        watch._look("pets/7", {"b": BAD})
        clock.s += 1000
    assert (server.tries, _is_on()) == (1, False)


def test_a_rollback_is_not_rolled_back(
    home: Path, monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    server = Server([], promoted=False)
    _watched(server, monkeypatch)._look("pets/7", {"b": BAD})
    assert server.tries == 0
