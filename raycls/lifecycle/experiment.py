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
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from raycls import registry
from raycls.errors import UsageError
from raycls.lifecycle.documents import Documents
from raycls.serving import state
from raycls.serving.replica.metrics import SECONDS
from raycls.serving.state import Experiment, ServingState

Mode = Literal["shadow", "split"]


class Record(BaseModel):
    """What is known of an experiment. replicas: the last counts of each replica of the champion, by its id."""

    model_config = ConfigDict(frozen=True)

    experiment: Experiment
    ended: str = ""
    reason: str = ""
    ended_by: str = ""
    replicas: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        return not self.ended

    def with_counts(self, counts: list[dict[str, Any]]) -> Record:
        """Return the record with the newest counts of some replicas. Those of replicas that are gone stay."""
        newer = {each["replica"]: each for each in counts if each["experiment"] == self.experiment.id}
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
        }


class Arm(BaseModel):
    """The counts of one version. seconds: by the buckets of raycls/serving/replica/metrics.py, one more at the end."""

    requests: int = 0
    failures: dict[str, int] = Field(default_factory=dict)
    seconds: list[int] = Field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    confidence_sum: float = 0.0
    predicted: list[int] = Field(default_factory=list)

    @classmethod
    def of(cls, parts: list[dict[str, Any]]) -> Arm:
        total = cls()
        for part in parts:
            failures = {
                kind: total.failures.get(kind, 0) + part["failures"].get(kind, 0)
                for kind in (*total.failures, *part["failures"])
            }
            total = cls(
                requests=total.requests + part["requests"],
                failures=failures,
                seconds=[a + b for a, b in zip(total.seconds, part["seconds"], strict=True)],
                confidence_sum=total.confidence_sum + part["confidence_sum"],
                predicted=[
                    a + b
                    for a, b in zip(
                        total.predicted or [0] * len(part["predicted"]), part["predicted"], strict=True
                    )
                ],
            )
        return total

    @property
    def failed(self) -> int:
        """Requests that this version should have answered and did not, by its own fault."""
        return sum(self.failures.get(kind, 0) for kind in ("late", "raised", "not_finite"))

    def quantile_ms(self, q: float) -> float | None:
        """Return the upper bound of the bucket that holds the quantile, ms; None without answers."""
        wanted, below = q * sum(self.seconds), 0
        for bound, count in zip((*SECONDS, float("inf")), self.seconds, strict=True):
            below += count
            if count and below >= wanted:
                return 1000 * min(bound, 2 * SECONDS[-1])
        return None

    def as_json(self) -> dict[str, Any]:
        pictures = sum(self.predicted)
        return {
            "requests": self.requests,
            "failures": self.failures,
            "p50_ms": self.quantile_ms(0.5),
            "p95_ms": self.quantile_ms(0.95),
            "confidence": self.confidence_sum / pictures if pictures else None,
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
        started=_now(),
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
        update={"ended": _now(), "reason": reason, "ended_by": by}
    )
    EXPERIMENTS.save(record.experiment.id, record)
    return record


def records() -> list[Record]:
    """Return all experiments, the newest first."""
    return sorted(EXPERIMENTS.all(), key=lambda record: record.experiment.started, reverse=True)


def _running(now: ServingState) -> Experiment:
    if now.experiment is None:
        raise UsageError("no experiment is running: `raycls experiment start` begins one")
    return now.experiment


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
