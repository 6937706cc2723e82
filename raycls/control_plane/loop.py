"""What the watches of this folder share: look again and again, whatever one look raises.

await forever(5.0, self.step, "watch drift")
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

logger = logging.getLogger("ray.serve")


async def forever(period_s: float, step: Callable[[], Awaitable[None]], task: str) -> NoReturn:
    """Wait period_s seconds and call `step`, until cancelled. task: what it does, for the log where it raises."""
    while True:
        await asyncio.sleep(period_s)
        try:
            await step()
        except Exception:
            logger.exception(f"raycls failed to {task}")
