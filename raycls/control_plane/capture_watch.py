"""Keeps the pictures that replicas set aside, and deletes those that nobody accepted in time.

task = asyncio.create_task(CaptureWatch().run())
"""

from __future__ import annotations

import asyncio
import logging
import time

from raycls import registry
from raycls.control_plane import served
from raycls.control_plane.loop import forever
from raycls.errors import RayclsError
from raycls.lifecycle import capture
from raycls.lifecycle.uploads import Uploads
from raycls.models.card import load_card
from raycls.serving import state
from raycls.serving.replica.captured import CapturePolicy, Prediction

PERIOD_S = 5.0
EXPIRE_S = 3600.0

logger = logging.getLogger("ray.serve")


class CaptureWatch:
    """The loop of one control plane."""

    def __init__(self) -> None:
        self._expired = 0.0  # when it was looked last, seconds since 1970

    async def run(self) -> None:
        """Run until cancelled."""
        await forever(PERIOD_S, lambda: self.step(time.time()), "keep captured pictures")

    async def step(self, now: float) -> None:
        """Collect once. now: seconds since 1970."""
        policy = (await asyncio.to_thread(state.load)).capture
        if now - self._expired > EXPIRE_S:
            self._expired = now
            # Also where capture is off by now: what was captured still expires.
            await asyncio.to_thread(capture.expire, Uploads.of_process(), policy or CapturePolicy(), now)
        if policy and policy.is_on:
            found = [each for part in await served.broadcast("captured") for each in part]
            await asyncio.to_thread(_keep, found, policy)


def _keep(found: list[tuple[bytes, Prediction]], policy: CapturePolicy) -> None:
    uploads = Uploads.of_process()
    for data, prediction in found:
        try:
            version = registry.resolve(f"{prediction.model}/{prediction.version}")
            card = load_card(registry.checkpoint(version))
            capture.keep(uploads, card.dataset, data, prediction, policy, classes=card.classes)
        except RayclsError as error:  # of this picture: the others are kept
            logger.warning(f"raycls did not keep a captured picture: {error}")
