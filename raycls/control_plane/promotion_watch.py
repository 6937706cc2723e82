"""Rolls a promotion back where the new champion does worse on live traffic than the former one did.

    task = asyncio.create_task(PromotionWatch(watch_s=1800).run())

The guards are those of an experiment (raycls/lifecycle/guards.py). The rollback is an event in the model's history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from raycls.control_plane import served
from raycls.control_plane.loop import forever
from raycls.errors import RayclsError, UsageError
from raycls.lifecycle import promotion_watch
from raycls.lifecycle.guards import ArmCounts
from raycls.lifecycle.promotion_watch import WATCHES, Watch
from raycls.registry import history
from raycls.serving.control import rollout

PERIOD_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = (
    4.0,
    120.0,
)  # after a rollback that did not succeed; each is twice the one before
RECORDED_S = 60.0  # after that, a version whose promotion is not in the history was deployed without one
BY = "raycls"
# Promotions that are watched. A rollback is not: it would be rolled back in turn.
WATCHED = ("promotion", "forced")

logger = logging.getLogger("ray.serve")


@dataclass
class _Tries:
    """When the next try to go back may be, by the monotonic clock, and the pause after it, seconds."""

    not_before: float = 0.0
    pause_s: float = FIRST_PAUSE_S


class PromotionWatch:
    """The loop of one control plane. watch_s: how long a promotion is watched, seconds; 0: not at all."""

    def __init__(self, watch_s: float):
        self._watch_s = watch_s
        self._tries: dict[str, _Tries] = {}  # by model

    async def run(self) -> None:
        """Run until cancelled; return at once where nothing is watched."""
        if self._watch_s:
            await forever(PERIOD_S, self.step, "watch the promotion")

    async def step(self) -> None:
        """Look once, and go back to the former champion where that is needed."""
        found: dict[str, dict[str, dict[str, ArmCounts]]] = {}  # by model, version and replica
        for reference, replica, each in await served.version_counts():
            versions = found.setdefault(reference.partition("/")[0], {})
            versions.setdefault(reference, {})[replica] = ArmCounts.model_validate(each)
        for versions in found.values():
            if len(versions) == 1:  # else an update is under way
                ((reference, counts),) = versions.items()
                await asyncio.to_thread(self._look, reference, counts)

    def _look(self, reference: str, counts: dict[str, ArmCounts]) -> None:
        name = reference.partition("/")[0]
        former = promotion_watch.load(name)
        if former and former.current != reference:  # the pause was for another version
            self._tries.pop(name, None)
        watch = promotion_watch.seen(former, reference, counts, self._watch_s)
        if watch != former:
            WATCHES.save(promotion_watch.identifier(name), watch)
        if not (reason := promotion_watch.trouble(watch)):
            return
        if _was_promoted(watch):
            self._go_back(watch, reason)
        # A version is served a moment before the history has its promotion.
        elif time.time() >= watch.until - self._watch_s + RECORDED_S:
            _end(watch)

    def _go_back(self, watch: Watch, reason: str) -> None:
        """Roll back. Where that fails, a later look tries it again while the promotion is watched."""
        tries = self._tries.setdefault(watch.model, _Tries())
        if time.monotonic() < tries.not_before:
            return
        logger.warning(f"raycls goes back from {watch.current} to the former champion: {reason}")
        try:
            rollout.rollback(watch.model, reason=reason, by=BY)
        except UsageError as error:  # there is no former champion: a person must choose one
            logger.error(f"raycls cannot go back from {watch.current}: {error}")
            _end(watch)
        except RayclsError as error:
            logger.error(f"raycls could not go back from {watch.current} and tries it again: {error}")
            tries.not_before = time.monotonic() + tries.pause_s
            tries.pause_s = min(2 * tries.pause_s, LONGEST_PAUSE_S)
        else:  # Only now: a process that is killed before this point tries it again after its restart.
            _end(watch)
            self._tries.pop(watch.model, None)


def _end(watch: Watch) -> None:
    WATCHES.save(promotion_watch.identifier(watch.model), promotion_watch.ended(watch))


def _was_promoted(watch: Watch) -> bool:
    """Return whether the latest change of the champion is a promotion to the version that is served."""
    for event in history.events(watch.model):
        if event.kind != "refusal" and event.done:
            return event.kind in WATCHED and f"{event.model}/{event.version}" == watch.current
    return False
