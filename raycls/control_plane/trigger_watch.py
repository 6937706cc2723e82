"""Begins a retraining where a trigger says so.

task = asyncio.create_task(TriggerWatch().run())
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from raycls.control_plane.loop import forever
from raycls.errors import RayclsError, UsageError
from raycls.lifecycle import triggers
from raycls.serving import state
from raycls.serving.state import Trigger

PERIOD_S = 60.0

logger = logging.getLogger("ray.serve")


class TriggerWatch:
    """The loop of one control plane."""

    async def run(self) -> None:
        """Run until cancelled."""
        await forever(
            PERIOD_S, lambda: asyncio.to_thread(self.step, datetime.now(UTC)), "look at the triggers"
        )

    def step(self, now: datetime) -> None:
        """Look once. now: with a time zone."""
        for trigger in state.load().triggers:
            try:
                _look(trigger, now)
            except RayclsError as error:  # of this model: the others are looked at
                logger.error(f"raycls cannot look whether to retrain {trigger.model}: {error}")


def _look(trigger: Trigger, now: datetime) -> None:
    reason = triggers.due(trigger, triggers.look(trigger), now)
    if not reason:
        return
    try:
        record = triggers.begin(trigger, reason, now)
    except UsageError:  # another retraining of the model is open
        return
    logger.warning(f"raycls retrains {trigger.model}, {record.id}: {reason}")
