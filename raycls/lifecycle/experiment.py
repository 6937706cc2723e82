"""Experiments: a challenger beside the champion on live traffic, from its start to its end.

    started = start("pets/7", champion="pets/6", mode="shadow", share=0.2, by="ada")
    change_share(0.5, by="ada")
    ended = stop("it answers slower", by="ada")

An experiment runs while the server's state names it (raycls/serving/state.py): the control plane keeps the challenger's
deployment as the state says, and replicas follow the state. What was counted is kept in experiments/ID.json below
RAYCLS_STORAGE, or below the home, also after the end.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from raycls import registry
from raycls.errors import UsageError
from raycls.lifecycle import guards, intake
from raycls.lifecycle.capture import SENDER
from raycls.lifecycle.documents import Documents, now
from raycls.lifecycle.uploads import Uploads
from raycls.models.card import load_card
from raycls.serving import state
from raycls.serving.replica.arm_counts import FAULTS
from raycls.serving.replica.metrics import SECONDS
from raycls.serving.state import Experiment, Mode, ServingState

MOST_KEPT = 200  # images of an experiment that wait for a review
IMAGES = "disagreements"  # of a replica's counts: images that the record does not keep


class Record(BaseModel):
    """What is known of an experiment. replicas: the last counts of each replica of the champion, by its id."""

    model_config = ConfigDict(frozen=True)

    experiment: Experiment
    ended: str = ""
    reason: str = ""
    ended_by: str = ""
    kept: int = Field(0, description="images on which both disagreed, in the review queue")
    replicas: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        return not self.ended

    def with_counts(self, counts: list[dict[str, Any]]) -> Record:
        """Return the record with the newest counts of some replicas. Those of replicas that are gone stay."""
        newer = {each["replica"]: each for each in counts if each["experiment"] == self.experiment.id}
        newer = {name: {k: v for k, v in each.items() if k != IMAGES} for name, each in newer.items()}
        return self.model_copy(update={"replicas": self.replicas | newer})

    def arm(self, name: Literal["champion", "challenger"]) -> Arm:
        """Return the sum of all replicas' counts of one version."""
        return Arm.of([counts[name] for counts in self.replicas.values()])

    @property
    def broken(self) -> bool:
        """Whether a replica asks the challenger no more, because it failed several times in a row."""
        return any(counts["broken"] for counts in self.replicas.values())

    def as_json(self) -> dict[str, Any]:
        """Return what people want to know: the answer of GET /experiments/ID."""
        agreed = sum(counts["agreed"] for counts in self.replicas.values())
        disagreed = sum(counts["disagreed"] for counts in self.replicas.values())
        return {
            **self.experiment.model_dump(),
            "state": "running" if self.is_running else "ended",
            "ended": self.ended,
            "reason": self.reason,
            "ended_by": self.ended_by,
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
        """Return the upper bound of the bucket that holds the quantile, ms; None without answers."""
        wanted, below = q * sum(self.latencies), 0
        for bound, count in zip((*self.bounds, 2 * SECONDS[-1]), self.latencies, strict=False):
            below += count
            if count and below >= wanted:
                return 1000 * bound
        return None

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "failures": self.failures,
            "p50_ms": self.quantile_ms(0.5),
            "p95_ms": self.quantile_ms(0.95),
            "confidence": self.confidence_sum / self.confidences if self.confidences else None,
            "predicted": self.predicted,
        }


EXPERIMENTS = Documents("experiments", Record, "experiment")


def start(challenger: str, *, champion: str, mode: Mode, share: float, by: str) -> Experiment:
    """Begin an experiment against the served version `champion`, and return it. Both are NAME/VERSION.

    Raises UsageError where one runs already, or where the challenger is the champion or another model's version, and
    UnknownModelError.
    """
    version = registry.resolve(challenger)
    if version.reference == champion:
        raise UsageError(f"{champion} is served already: choose another version as challenger")
    if version.name != champion.partition("/")[0]:
        raise UsageError(
            f"{version.reference} is a version of another model than {champion}, which is served"
        )
    registry.checkpoint(version)  # a missing checkpoint is said now
    if not 0 < share <= 1:
        raise UsageError(f"the share is {share:g}: give a number above 0 and up to 1, like 0.2")
    new = Experiment(
        id=secrets.token_hex(4),
        champion=champion,
        challenger=version.reference,
        mode=mode,
        share=share,
        started=now(),
        by=by,
    )

    def started(now: ServingState) -> ServingState:
        if now.experiment:
            raise UsageError(f"the experiment with {now.experiment.challenger} is running: end it first")
        return now.model_copy(update={"experiment": new})

    EXPERIMENTS.save(new.id, Record(experiment=new))
    state.change(started)
    return new


def change_share(share: float, *, by: str) -> Experiment:
    """Let the running experiment have another share of the requests. Raises UsageError where none runs."""
    if not 0 < share <= 1:
        raise UsageError(f"the share is {share:g}: give a number above 0 and up to 1, like 0.2")

    def changed(now: ServingState) -> ServingState:
        return now.model_copy(update={"experiment": _running(now).model_copy(update={"share": share})})

    new = _running(state.change(changed))
    EXPERIMENTS.save(new.id, EXPERIMENTS.load(new.id).model_copy(update={"experiment": new}))
    return new


def stop(reason: str, *, by: str, only: str | None = None) -> Record:
    """End the running experiment and return its record. only: end it only where it has this id.

    Raises UsageError where none runs.
    """
    ended: list[Experiment] = []

    def stopped(now: ServingState) -> ServingState:
        running = _running(now)
        if only not in (None, running.id):
            raise UsageError(f"the experiment {only} has ended already")
        ended[:] = [running]
        return now.model_copy(update={"experiment": None})

    state.change(stopped)
    record = EXPERIMENTS.load(ended[0].id).model_copy(
        update={"ended": now(), "reason": reason, "ended_by": by}
    )
    EXPERIMENTS.save(record.experiment.id, record)
    return record


def keep_disagreements(record: Record, found: list[tuple[bytes, str, str]]) -> Record:
    """Put images on which both disagree into the review queue, MOST_KEPT of an experiment, and return the record.

    found: for each, its bytes and the classes that champion and challenger answered.
    """
    room = MOST_KEPT - record.kept
    if not found or room <= 0:
        return record
    card = load_card(registry.checkpoint(registry.resolve(record.experiment.champion)))
    for data, ours, theirs in found[:room]:
        prediction = {"experiment": record.experiment.id, "champion": ours, "challenger": theirs}
        intake.add(
            Uploads(),
            card.dataset,
            [("disagreement", data)],
            label=ours,
            sender=SENDER,
            source="captured",
            classes=card.classes,
            prediction=prediction,
        )
    return record.model_copy(update={"kept": record.kept + min(room, len(found))})


def records() -> list[Record]:
    """Return all experiments, the newest first."""
    return sorted(EXPERIMENTS.all(), key=lambda record: record.experiment.started, reverse=True)


def _running(now: ServingState) -> Experiment:
    if now.experiment is None:
        raise UsageError("no experiment is running: `raycls experiment start` begins one")
    return now.experiment
