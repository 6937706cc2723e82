"""Rolls a promotion back where the new champion does worse on live traffic than the former one did.

    task = asyncio.create_task(PromotionWatch(watch_s=1800).run())

The guards are those of an experiment (raycls/lifecycle/guards.py). The rollback is an event in the model's history.
"""

from __future__ import annotations

import asyncio
import logging
import time

from raycls.control_plane import served
from raycls.control_plane.loop import forever
from raycls.errors import RayclsError
from raycls.lifecycle import promotion_watch
from raycls.lifecycle.guards import ArmCounts
from raycls.lifecycle.promotion_watch import WATCHES, Watch
from raycls.registry import history
from raycls.serving.control import rollout

PERIOD_S = 2.0
RECORDED_S = 60.0  # after that, a version whose promotion is not in the history was deployed without one
BY = "raycls"
# Promotions that are watched. A rollback is not: it would be rolled back in turn.
WATCHED = ("promotion", "forced")

logger = logging.getLogger("ray.serve")


class PromotionWatch:
    """The loop of one control plane. watch_s: how long a promotion is watched, seconds; 0: not at all."""

    def __init__(self, watch_s: float):
        self._watch_s = watch_s

    async def run(self) -> None:
        """Run until cancelled; return at once where nothing is watched."""
        if self._watch_s:
            await forever(PERIOD_S, self.step, "watch the promotion")

    async def step(self) -> None:
        """Look once, and go back to the former champion where that is needed."""
        found = await served.version_counts()
        references = {reference for reference, _, _ in found}
        if len(references) != 1:  # an update is under way
            return
        (reference,) = references
        counts = {replica: ArmCounts.model_validate(each) for _, replica, each in found}
        await asyncio.to_thread(self._look, reference, counts)

    def _look(self, reference: str, counts: dict[str, ArmCounts]) -> None:
        name = reference.partition("/")[0]
        former = promotion_watch.load(name)
        watch = promotion_watch.seen(former, reference, counts, self._watch_s)
        if watch != former:
            WATCHES.save(promotion_watch.identifier(name), watch)
        if not (reason := promotion_watch.trouble(watch)):
            return
        # A version is served a moment before the history has its promotion.
        if not _was_promoted(watch) and time.time() < watch.until - self._watch_s + RECORDED_S:
            return
        # First: a rollback that fails is not tried again and again.
        WATCHES.save(promotion_watch.identifier(name), promotion_watch.ended(watch))
        if not _was_promoted(watch):
            return
        logger.warning(f"raycls goes back from {watch.current} to the former champion: {reason}")
        try:
            rollout.rollback(name, reason=reason, by=BY)
        except RayclsError as error:
            logger.error(f"raycls cannot go back from {watch.current}: {error}")


def _was_promoted(watch: Watch) -> bool:
    """Return whether the latest change of the champion is a promotion to the version that is served."""
    for event in history.events(watch.model):
        if event.kind != "refusal" and event.done:
            return event.kind in WATCHED and f"{event.model}/{event.version}" == watch.current
    return False
