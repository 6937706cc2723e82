"""What an experiment's replicas counted: requests, failures, latencies, confidences, and where both versions disagree.

    counts = counts_of("3f2a91c0").with_counts("3f2a91c0", newest)      # newest: of each replica of the champion
    counts.arm("challenger").quantile_ms(0.95)
    save("3f2a91c0", counts)

They lie in experiment-counts/ID.json, apart from the experiment's record: the control plane alone writes them, each
second, so that it never undoes an end or a change that a person has just written into the record.
"""

from __future__ import annotations

from collections import Counter
from functools import reduce
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from raycls import registry
from raycls.errors import RayclsError, UnknownRecordError
from raycls.lifecycle import guards, intake
from raycls.lifecycle.capture import SENDER
from raycls.lifecycle.documents import Documents
from raycls.lifecycle.replica_counts import with_newest
from raycls.lifecycle.uploads import Uploads
from raycls.metrics import bucket_quantile
from raycls.models.card import load_card
from raycls.serving.replica.arm_counts import FAULTS
from raycls.serving.replica.metrics import SECONDS
from raycls.serving.state import Experiment

MOST_KEPT = 200  # images of an experiment that wait for a review
IMAGES = "disagreements"  # of a replica's counts: images that are not kept with the numbers


class Counts(BaseModel):
    """All that was counted. replicas: the last counts of each replica of the champion, by its id."""

    model_config = ConfigDict(frozen=True)

    kept: int = Field(0, description="images on which both disagreed, in the review queue")
    replicas: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def with_counts(self, identifier: str, newest: list[dict[str, Any]]) -> Counts:
        """Return these with the experiment's newest counts of some replicas. Those of replicas that are gone stay."""
        newer = {
            each["replica"]: {key: value for key, value in each.items() if key != IMAGES}
            for each in newest
            if each["experiment"] == identifier
        }
        return self.model_copy(update={"replicas": with_newest(self.replicas, newer, _sum)})

    def arm(self, name: Literal["champion", "challenger"]) -> Arm:
        """Return the sum of all replicas' counts of one version."""
        return Arm.of([counts[name] for counts in self.replicas.values()])

    @property
    def broken(self) -> bool:
        """Whether a replica asks the challenger no more, because it failed several times in a row."""
        return any(counts["broken"] for counts in self.replicas.values())

    def as_json(self) -> dict[str, Any]:
        agreed = sum(counts["agreed"] for counts in self.replicas.values())
        disagreed = sum(counts["disagreed"] for counts in self.replicas.values())
        return {
            "arms": {
                "champion": self.arm("champion").as_json(),
                "challenger": self.arm("challenger").as_json(),
            },
            "replaced": sum(counts["replaced"] for counts in self.replicas.values()),
            "agreement": agreed / (agreed + disagreed) if agreed + disagreed else None,
            "compared": agreed + disagreed,
            "kept": self.kept,
        }


class Arm(guards.ArmCounts):
    """The counts of one version, as the guards want them. failures: by kind. predicted: images by class."""

    failures: dict[str, int] = Field(default_factory=dict)
    predicted: tuple[int, ...] = ()

    @classmethod
    def of(cls, parts: list[dict[str, Any]]) -> Arm:
        """Return the sum of what several replicas counted (raycls/serving/replica/arm_counts.py)."""
        failures = sum((Counter(part["failures"]) for part in parts), Counter())
        faults = sum(failures[kind] for kind in FAULTS)
        columns = list(zip(*(part["predicted"] for part in parts), strict=True))
        return cls(
            requests=sum(part["requests"] for part in parts) + faults,
            errors=faults,
            not_finite=failures["not_finite"],
            bounds=SECONDS,
            latencies=tuple(map(sum, zip(*(part["seconds"] for part in parts), strict=True))),
            confidences=sum(map(sum, columns)),
            confidence_sum=sum(part["confidence_sum"] for part in parts),
            confidence_squares=sum(part["confidence_squares"] for part in parts),
            failures=dict(failures),
            predicted=tuple(map(sum, columns)),
        )

    def quantile_ms(self, q: float) -> float | None:
        """Return a quantile of the latency, ms; None without answers."""
        seconds = bucket_quantile(self.bounds, self.latencies, q)
        return None if seconds is None else 1000 * seconds

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "failures": self.failures,
            "p50_ms": self.quantile_ms(0.5),
            "p95_ms": self.quantile_ms(0.95),
            "confidence": self.confidence_sum / self.confidences if self.confidences else None,
            "predicted": self.predicted,
        }


_COUNTS = Documents("experiment-counts", Counts, "experiment")


def counts_of(identifier: str) -> Counts:
    """Return what an experiment has counted so far. Raises DataError."""
    try:
        return _COUNTS.load(identifier)
    except UnknownRecordError:  # nothing yet
        return Counts()


def save(identifier: str, counts: Counts) -> None:
    """Keep an experiment's counts. Raises DataError."""
    _COUNTS.save(identifier, counts)


def _sum(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of what replicas counted: of each number under its name, and in lists at its place."""
    return reduce(_added, parts)


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {
            name: _added(one[name], other[name]) if name in one and name in other else {**one, **other}[name]
            for name in {**one, **other}
        }
    if isinstance(one, list | tuple):
        return [_added(*pair) for pair in zip(one, other, strict=True)]
    if isinstance(one, bool):
        return one or other
    return one if isinstance(one, str) else one + other


def keep_disagreements(
    experiment: Experiment, counts: Counts, found: list[tuple[bytes, str, str]]
) -> tuple[Counts, str]:
    """Put images on which both disagree into the review queue, MOST_KEPT of an experiment.

    found: for each, its bytes and the classes that champion and challenger answered. Return the counts, and why an
    image was not taken ("" where all were).
    """
    kept, refused = counts.kept, ""
    if not found or kept >= MOST_KEPT:
        return counts, ""
    card = load_card(registry.checkpoint(registry.resolve(experiment.champion)))
    for data, ours, theirs in found[: MOST_KEPT - kept]:
        try:
            answer = intake.add(
                Uploads.of_process(),
                card.dataset,
                [("disagreement", data)],
                label=ours,
                sender=SENDER,
                source="captured",
                classes=card.classes,
                prediction={"experiment": experiment.id, "champion": ours, "challenger": theirs},
            )
            kept += len(answer.taken)
            refused = answer.refused[0].reason if answer.refused else refused
        except RayclsError as error:
            refused = str(error)
    return counts.model_copy(update={"kept": kept}), refused
