"""Which pictures of live requests a replica sets aside for a review. By default none.

    captured = Captured(policy)
    captured.consider(images, predictions, "pets/7")    # after the answer is computed: no I/O
    captured.take()                                     # what the control plane asks for

Between two calls of the control plane a replica holds at most MOST_HELD pictures, and MOST_BYTES of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from raycls.engines import predictor
from raycls.errors import ImageError

MOST_HELD = 32
MOST_BYTES = 32 << 20


class CapturePolicy(BaseModel):
    """Which pictures are captured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: float = Field(0.0, ge=0, le=1, description="share of the pictures that are kept; 0: none")
    share_of_class: dict[str, float] = Field(
        default={}, description="another share for pictures of some predicted classes"
    )
    least_confidence: float = Field(0.0, ge=0, le=1, description="lowest confidence of a kept picture")
    most_confidence: float = Field(1.0, ge=0, le=1, description="highest confidence of a kept picture")
    rejected_only: bool = Field(
        False, description="keep only pictures whose answer was below the threshold of `raycls reject`"
    )
    per_day: int = Field(100, ge=0, description="most pictures in 24 hours")
    quota: int = Field(1000, ge=0, description="most captured pictures that are stored at a time")
    days: float = Field(30, gt=0, description="age at which a picture that nobody accepted is deleted, days")

    @property
    def is_on(self) -> bool:
        """Whether any picture is kept. The age holds for those that were captured before, too."""
        return bool(self.share or any(self.share_of_class.values()))


@dataclass(frozen=True)
class Prediction:
    """What a model said of a picture. confidence: 0 to 1. rejected: it was below the threshold of `raycls reject`."""

    label: str
    confidence: float
    model: str
    version: str
    rejected: bool = False


def wanted(policy: CapturePolicy, prediction: Prediction, random: float) -> bool:
    """Return whether to keep a picture. random: evenly distributed, at least 0 and below 1.

    How many are kept is decided where all replicas' pictures come together (raycls/lifecycle/capture.py).
    """
    return (
        random < policy.share_of_class.get(prediction.label, policy.share)
        and (prediction.rejected or not policy.rejected_only)
        and policy.least_confidence <= prediction.confidence <= policy.most_confidence
    )


class Captured:
    """The pictures that one replica has set aside."""

    def __init__(self, policy: CapturePolicy):
        self.policy = policy
        self._held: list[tuple[bytes, Prediction]] = []
        self._bytes = 0

    def consider(
        self,
        images: Sequence[bytes],
        outcomes: Sequence[predictor.Prediction | ImageError],
        reference: str,
    ) -> None:
        """Set aside what the policy wants of one request. reference: the version that has answered, NAME/VERSION."""
        model, _, version = reference.partition("/")
        for data, outcome in zip(images, outcomes, strict=True):
            if isinstance(outcome, ImageError):
                continue
            found = Prediction(outcome.class_name, outcome.confidence, model, version, bool(outcome.rejected))
            room = len(self._held) < MOST_HELD and self._bytes + len(data) <= MOST_BYTES
            if room and wanted(self.policy, found, random.random()):
                self._held.append((data, found))
                self._bytes += len(data)

    def take(self) -> list[tuple[bytes, Prediction]]:
        """Return the pictures, and begin anew."""
        held, self._held, self._bytes = self._held, [], 0
        return held
