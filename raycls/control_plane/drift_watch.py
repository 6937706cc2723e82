"""Collects what replicas sum up of the images they meet, in windows, and examines each window for drift.

    task = asyncio.create_task(DriftWatch(images=2000).run())

A window ends with `images` images, or after an hour if it has 100. The open window is in memory: it begins anew after a
restart of the control plane. Replicas learn of the last window when they are asked for the next sums.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from raycls import registry
from raycls.control_plane import served
from raycls.control_plane.loop import forever
from raycls.drift import file
from raycls.drift.examine import LEAST_IMAGES, examine
from raycls.drift.reference import Reference
from raycls.drift.window import WindowSums
from raycls.lifecycle import drift_windows
from raycls.lifecycle.drift_windows import DriftWindow, model_of

PERIOD_S = 5.0
LONGEST = timedelta(hours=1)
SILENT = timedelta(minutes=5)  # after which a model that does not answer is served no more

logger = logging.getLogger("ray.serve")


@dataclass
class _Open:
    """A window that is being filled."""

    reference: Reference
    sums: WindowSums
    began: datetime
    seen: datetime  # when a replica has answered last


class DriftWatch:
    """The loop of one control plane. images: in a window."""

    def __init__(self, images: int):
        self._images = images
        self._open: dict[str, _Open] = {}  # by version
        self._last: dict[str, Any] | None = None  # windows that ended last, by version

    async def run(self) -> None:
        """Run until cancelled."""
        await forever(PERIOD_S, lambda: self.step(datetime.now(UTC)), "watch drift")

    async def step(self, now: datetime) -> None:
        """Collect once, and examine the windows that are full. now: with a time zone."""
        if self._last is None and (kept := await asyncio.to_thread(drift_windows.windows)):
            self._last = {each.version: each.as_json() for each in reversed(kept)}
        answers = await served.drift_sums(self._last or {})
        ended: list[DriftWindow] = []
        try:
            for answer in answers:
                await self._add(answer, now, ended)
            for version, window in self._open.items():
                if now - window.began >= LONGEST and window.sums.images >= LEAST_IMAGES:
                    ended += await self._ended(version, now)
            if answers:  # a version that is served no more leaves its window unfinished
                versions = {answer["version"] for answer in answers}
                models = {model_of(version) for version in versions}  # another model's replicas may be silent
                self._open = {
                    version: window
                    for version, window in self._open.items()
                    if version in versions or (model_of(version) not in models and now - window.seen < SILENT)
                }
        finally:
            if ended:
                self._last = (self._last or {}) | {each.version: each.as_json() for each in ended}
                await asyncio.to_thread(drift_windows.keep, ended)

    async def _add(self, answer: dict[str, Any], now: datetime, ended: list[DriftWindow]) -> None:
        """Add one replica's chunks. A chunk that would make a window too large begins the next one.

        A window that is still too small to be examined takes it all the same.
        """
        version = answer["version"]
        if version not in self._open:
            reference = await asyncio.to_thread(_reference, version)
            if reference is None:
                return
            self._open[version] = _Open(reference, WindowSums.empty(reference), now, now)
        window = self._open[version]
        window.seen = now
        for sums in map(WindowSums.from_json, answer["chunks"]):
            if window.sums.images + sums.images > self._images:
                ended += await self._ended(version, now)
            window.sums += sums
            if window.sums.images >= self._images:
                ended += await self._ended(version, now)

    async def _ended(self, version: str, now: datetime) -> list[DriftWindow]:
        """Return the version's window, examined, and begin the next one. Return none if it is too small."""
        window = self._open[version]
        findings = await asyncio.to_thread(examine, window.reference, window.sums)
        if not findings:
            return []
        found = DriftWindow(
            version=version,
            began=window.began.isoformat(timespec="seconds"),
            ended=now.isoformat(timespec="seconds"),
            images=window.sums.images,
            findings=tuple(findings),
        )
        if found.alarms:
            effects = ", ".join(
                f"{each.feature} (effect {each.effect:.2g})" for each in findings if each.alarm
            )
            logger.warning(f"the images that {version} meets have changed: {effects}. See `raycls drift`")
        window.sums, window.began = WindowSums.empty(window.reference), now
        return [found]


def _reference(version: str) -> Reference | None:
    return file.read(registry.checkpoint(registry.resolve(version)))
