"""When a version may replace the champion: the typed rule of every promotion.

    policy = override(PromotionPolicy(), ["metric=macro_f1", "margin=0.005"])
    print(policy)

`raycls promote`, studies and retraining all use it. It is printed with each comparison and logged with each promotion.
raycls/registry/compare.py applies it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from raycls.config import Metric, validated
from raycls.errors import ConfigError

UNBALANCED = 5  # a class with this many times the images of another one makes the default metric a macro one


class PromotionPolicy(BaseModel):
    """The rule. A challenger is better if the estimate of its gain is above 0 and the gain is not below -margin.

    The gain is the paired difference on the same pictures, in favour of the challenger. The rule holds for all pictures
    of the split, and for those that were not uploaded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: Metric | None = Field(
        None,
        description="what decides; none: accuracy, or macro_recall where a class has over five times the training "
        "images of another one",
    )
    margin: float = Field(
        0.01,
        ge=0,
        le=1,
        description="largest loss that the interval may still hold; 0.01 is one point, for log_loss in nats",
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="of the two-sided interval of the paired difference"
    )
    max_recall_loss: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest loss of recall in one class; a loss that may be chance only warns",
    )
    max_latency_ratio: float | None = Field(
        None,
        gt=0,
        description="longest forward pass of one image, as a multiple of the champion's; none: any",
    )
    max_latency_ms: float | None = Field(
        None, gt=0, description="longest forward pass of one image, milliseconds; none: any"
    )

    max_accuracy_loss: float = Field(
        0.2,
        ge=0,
        le=100,
        description="largest loss of accuracy on `val` by an engine against PyTorch in float32, points; one that loses "
        "more never serves the version",
    )

    def for_classes(self, images: Sequence[int]) -> PromotionPolicy:
        """Return this policy with its metric stated. images: the training images of each class."""
        return self if self.metric else self.model_copy(update={"metric": default_metric(images)})

    def __str__(self) -> str:
        return "  ".join(f"{name}={value}" for name, value in self.model_dump().items() if value is not None)


def default_metric(images: Sequence[int]) -> Metric:
    """Return macro_recall where the classes are unbalanced beyond 1:5, else accuracy. images: of each class."""
    present = [count for count in images if count]
    return "macro_recall" if present and max(present) > UNBALANCED * min(present) else "accuracy"


def override(policy: PromotionPolicy, assignments: Iterable[str]) -> PromotionPolicy:
    """Return the policy with each `field=value` applied. A value is JSON or else text. Raises ConfigError."""
    values = policy.model_dump()
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in values:
            raise ConfigError(
                f"{assignment!r} is no field=value of a promotion policy; its fields are: {', '.join(values)}"
            )
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return validated(PromotionPolicy, values)
