"""The last windows of drift that were examined, in drift/windows.json below RAYCLS_STORAGE, or below the home.

    keep([DriftWindow(version="pets/6", began=…, ended=…, images=2000, findings=examine(reference, sums))])
    windows()[0].alarms, [window.alarms for window in last()]

The control plane writes them; everybody may read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from raycls.drift.examine import Finding
from raycls.errors import UnknownRecordError
from raycls.lifecycle.documents import Documents

KEPT = 200  # windows of each model
NAME = "windows"


class DriftWindow(BaseModel):
    """What was found in one window of a version, NAME/VERSION. began, ended: ISO 8601, UTC."""

    model_config = ConfigDict(frozen=True)

    version: str
    began: str
    ended: str
    images: int
    findings: tuple[Finding, ...]

    @property
    def alarms(self) -> tuple[str, ...]:
        """The features that alarm."""
        return tuple(finding.feature for finding in self.findings if finding.alarm)

    def as_json(self) -> dict[str, Any]:
        """Return one entry of GET /drift."""
        return self.model_dump() | {"alarms": list(self.alarms)}


class _Windows(BaseModel):
    windows: tuple[DriftWindow, ...] = Field(description="the newest first")


RECORDS = Documents("drift", _Windows, "list of windows")


def windows() -> tuple[DriftWindow, ...]:
    """Return the last 200 windows of each model, the newest first. Raises DataError where they cannot be read."""
    try:
        return RECORDS.load(NAME).windows
    except UnknownRecordError:
        return ()


def keep(new: Sequence[DriftWindow]) -> None:
    """Add windows, the oldest first, and forget all but the last 200 of a model. Only one process may call it."""
    kept, counts = [], Counter[str]()
    for window in (*reversed(new), *windows()):
        counts[model_of(window.version)] += 1
        if counts[model_of(window.version)] <= KEPT:
            kept.append(window)
    RECORDS.save(NAME, _Windows(windows=tuple(kept)))


def last() -> list[DriftWindow]:
    """Return the newest window of each model, the newest first. Raises DataError where they cannot be read."""
    found: dict[str, DriftWindow] = {}
    for window in windows():
        found.setdefault(model_of(window.version), window)
    return list(found.values())


def model_of(version: str) -> str:
    """Return the name in NAME/VERSION."""
    return version.partition("/")[0]
