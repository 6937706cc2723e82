"""Which pictures of live requests are kept for review, and for how long. By default none.

    keep(uploads, "pets", data, prediction, policy, classes=classes)
    expire(uploads, policy)                                     # at least once a day

Replicas choose the pictures (raycls/serving/replica/captured.py), and the control plane keeps them. A captured picture
waits for review with the prediction as its label. Only an admin may see it. What nobody accepts in time is deleted.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from raycls.data.place import telling
from raycls.lifecycle.intake import Answer, add
from raycls.lifecycle.limits import USUAL, UploadLimits
from raycls.lifecycle.records import Record, expiry
from raycls.lifecycle.uploads import Uploads
from raycls.serving.replica.captured import CapturePolicy, Prediction

DAY_S = 86_400
SENDER = "capture"


@dataclass(frozen=True)
class Counts:
    """Captured pictures of the last 24 hours, and those that are stored now and not accepted."""

    today: int
    stored: int


@telling()
def counts_of(uploads: Uploads, name: str, now: float | None = None) -> Counts:
    """Return the counts of a dataset's captured pictures, without those that an experiment kept (see
    raycls/lifecycle/experiment_counts.py, which has a limit of its own). now: seconds since 1970."""
    now = time.time() if now is None else now
    captured = [
        record
        for record in uploads.of(name)
        if record.source == "captured" and "experiment" not in record.prediction
    ]
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
