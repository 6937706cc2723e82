"""Which pictures of live requests are kept for review, and for how long. By default none.

    if wanted(policy, prediction, counts, random.random()):     # in the replica: no I/O
        keep(uploads, "pets", data, prediction, policy, classes=classes)
    expire(uploads, policy)                                     # anywhere, at least once a day

A captured picture waits for review with the prediction as its label. Only an admin may see it. What nobody accepts in
time is deleted.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from pydantic import BaseModel, ConfigDict, Field

from raycls.data.place import telling
from raycls.lifecycle.intake import Answer, add
from raycls.lifecycle.limits import USUAL, UploadLimits
from raycls.lifecycle.records import Record, expiry
from raycls.lifecycle.uploads import Uploads

DAY_S = 86_400
SENDER = "capture"


class CapturePolicy(BaseModel):
    """Which pictures are captured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: float = Field(0.0, ge=0, le=1, description="share of the pictures that are kept; 0: none")
    share_of_class: dict[str, float] = Field(
        default={}, description="another share for pictures of some predicted classes"
    )
    least_confidence: float = Field(0.0, ge=0, le=1, description="lowest confidence of a kept picture")
    most_confidence: float = Field(1.0, ge=0, le=1, description="highest confidence of a kept picture")
    per_day: int = Field(100, ge=0, description="most pictures in 24 hours")
    quota: int = Field(1000, ge=0, description="most captured pictures that are stored at a time")
    days: float = Field(30, gt=0, description="age at which a picture that nobody accepted is deleted, days")


@dataclass(frozen=True)
class Prediction:
    """What a model said of a picture. confidence: 0 to 1."""

    label: str
    confidence: float
    model: str
    version: str
    request_id: str = ""


@dataclass(frozen=True)
class Counts:
    """Captured pictures of the last 24 hours, and those that are stored now and not accepted."""

    today: int = 0
    stored: int = 0


def wanted(policy: CapturePolicy, prediction: Prediction, counts: Counts, random: float) -> bool:
    """Return whether to keep a picture. random: evenly distributed, at least 0 and below 1."""
    return (
        random < policy.share_of_class.get(prediction.label, policy.share)
        and policy.least_confidence <= prediction.confidence <= policy.most_confidence
        and counts.today < policy.per_day
        and counts.stored < policy.quota
    )


@telling()
def counts_of(uploads: Uploads, name: str, now: float | None = None) -> Counts:
    """Return the counts of a dataset's captured pictures. now: seconds since 1970."""
    now = time.time() if now is None else now
    captured = [record for record in uploads.of(name) if record.source == "captured"]
    return Counts(
        today=sum(record.time > now - DAY_S for record in captured),
        stored=sum(record.state in ("waiting", "rejected") for record in captured),
    )


def keep(
    uploads: Uploads,
    name: str,
    data: bytes,
    prediction: Prediction,
    policy: CapturePolicy,
    *,
    classes: tuple[str, ...],
    limits: UploadLimits = USUAL,
) -> Answer | None:
    """Store a captured picture for review, or return None where all processes together have enough of them.

    classes: those of the model. Raises the errors of `raycls.lifecycle.intake.add`.
    """
    counts = counts_of(uploads, name)
    if counts.today >= policy.per_day or counts.stored >= policy.quota:
        return None
    return add(
        uploads,
        name,
        [("captured", data)],
        label=prediction.label,
        sender=SENDER,
        source="captured",
        classes=classes,
        prediction=asdict(prediction),
        limits=limits,
    )


@telling()
def expire(uploads: Uploads, policy: CapturePolicy, now: float | None = None) -> list[Record]:
    """Delete the captured pictures that nobody accepted in time, and what killed requests left. Return the former.

    now: seconds since 1970.
    """
    now = time.time() if now is None else now
    old = [
        record
        for record in uploads.records().of.values()
        if record.source == "captured"
        and record.state in ("waiting", "rejected")
        and record.time < now - policy.days * DAY_S
    ]
    uploads.write([expiry(record) for record in old])
    for record in old:
        uploads.drop(record.sha256)
    uploads.tidy()
    return old
