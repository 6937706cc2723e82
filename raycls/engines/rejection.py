"""The confidence below which a version's answers are rejected: set by `raycls reject`, and read wherever it answers.

    rejection = Rejection.model_validate_json(text)
    rejection.limits(("cat", "dog"))            # the lowest confidence of an answer that counts, by predicted class

raycls/training/rejection.py finds the thresholds. This module needs NumPy alone, as a replica does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from raycls.config import Engine


class Rejection(BaseModel):
    """Thresholds, and what they were found on: `images` of a split, of which `answered` are not rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    precision: float = Field(
        description="the wished share of right answers among those that are not rejected"
    )
    threshold: float | None = Field(
        description="the lowest confidence of an answer that is not rejected; none: no confidence reaches the "
        "precision, and every answer is rejected"
    )
    by_class: dict[str, float | None] = Field(
        default={},
        description="other thresholds, by predicted class",
    )
    engine: Engine = Field(description="what computed the confidences")
    dataset: str
    images: int
    answered: int
    right: int = Field(description="right answers among those that are not rejected")

    @property
    def coverage(self) -> float:
        """Return the share of the images that is not rejected."""
        return self.answered / self.images

    def limits(self, classes: Sequence[str]) -> np.ndarray:
        """Return float64 C: the lowest confidence of an answer of each class; above 1 where all are rejected."""
        found = (self.by_class.get(name, self.threshold) for name in classes)
        return np.array([np.inf if limit is None else limit for limit in found])
