"""The watch after a promotion: the guards compare the new champion with the former one, for a set time.

    watch = seen(watch, "pets/7", counts, watch_s=1800)     # after each look at the replicas
    reason = trouble(watch)                                 # "" or why the former champion must come back

The record of a model is a file of the storage, so that a control plane that starts again goes on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from raycls.errors import UnknownRecordError
from raycls.lifecycle.documents import Documents
from raycls.lifecycle.guards import ArmCounts, GuardPolicy, tripped
from raycls.lifecycle.replica_counts import with_newest


class Watch(BaseModel):
    """What is known of the versions that a server served last. Counts are by replica, as each one says them.

    until: seconds since 1970; 0: nothing is watched.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    current: str = Field(description="NAME/VERSION that is served")
    former: str = Field("", description="the one before")
    until: float = 0.0
    counts: dict[str, ArmCounts] = Field(default_factory=dict)
    former_counts: dict[str, ArmCounts] = Field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        return time.time() < self.until


WATCHES = Documents("promotionwatches", Watch, "watch after a promotion")


def identifier(model: str) -> str:
    """Return the name of a model's record: any model name gives one."""
    return hashlib.sha256(model.encode()).hexdigest()[:24]


def load(model: str) -> Watch | None:
    """Return a model's record, or None. Raises DataError."""
    try:
        return WATCHES.load(identifier(model))
    except UnknownRecordError:
        return None


def seen(watch: Watch | None, reference: str, counts: Mapping[str, ArmCounts], watch_s: float) -> Watch:
    """Return the record after a look at the replicas, which serve `reference`. A new version begins a new watch."""
    model = reference.partition("/")[0]
    if watch is None or watch.current == reference:
        known = watch or Watch(model=model, current=reference)
        merged = with_newest(known.counts, counts, _sum)
        return known.model_copy(update={"counts": merged})
    return Watch(
        model=model,
        current=reference,
        former=watch.current,
        until=time.time() + watch_s,
        counts=dict(counts),
        former_counts=watch.counts,
    )


def ended(watch: Watch) -> Watch:
    """Return the record with nothing watched: the next look is no cause for a rollback."""
    return watch.model_copy(update={"until": 0.0})


def trouble(watch: Watch, policy: GuardPolicy = GuardPolicy()) -> str:
    """Return why the new champion must go, or "". Nothing is said of a version that is not watched."""
    if not (watch.is_on and watch.former):
        return ""
    return tripped(policy, total(watch.former_counts), total(watch.counts)) or ""


def total(counts: Mapping[str, ArmCounts]) -> ArmCounts:
    """Return the sum of what several replicas counted."""
    return _sum(list(counts.values()))


def _sum(parts: list[ArmCounts]) -> ArmCounts:
    return ArmCounts(
        requests=sum(part.requests for part in parts),
        errors=sum(part.errors for part in parts),
        not_finite=sum(part.not_finite for part in parts),
        bounds=parts[0].bounds if parts else (),
        latencies=_columns([part.latencies for part in parts]),
        image_bounds=next((part.image_bounds for part in parts if part.image_bounds), ()),
        image_latencies=_columns([part.image_latencies for part in parts]),
        confidences=sum(part.confidences for part in parts),
        confidence_sum=sum(part.confidence_sum for part in parts),
        confidence_squares=sum(part.confidence_squares for part in parts),
    )


def _columns(rows: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the sum of each bucket over the replicas that counted."""
    return tuple(sum(column) for column in zip(*filter(None, rows), strict=True))
