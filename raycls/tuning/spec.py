"""Holds the specification of a study and the result of a trial.

    spec = StudySpec(dataset="cifar10", config=config, space=around(config, 45_000), trials=24, max_epochs=2, …)

Both are plain values. raycls/tuning/study.py runs a study from its specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from raycls import metrics
from raycls.config import Config, override
from raycls.tracking.resumable import RunSpec
from raycls.tuning.space import Domain, Value, configured

METRIC = "val_accuracy"  # of studies from before there was another metric

Search = Literal["gp", "tpe", "random", "grid"]
Scheduler = Literal["asha", "hyperband", "none"]
Objective = Literal["accuracy", "accuracy,latency"]
State = Literal["waiting", "running", "done", "stopped early", "failed"]


class StudySpec(RunSpec):
    """The full specification of a study. `config` is for the winner's training. Trials may be shorter."""

    kind = "study"
    command = "tune"

    space: dict[str, Domain] = Field(description="what is searched, by the setting's path")
    trials: int = Field(ge=1, description="configurations to try")
    max_epochs: int = Field(ge=1, description="epochs of a trial that is not stopped early")
    search: Search = Field(
        "gp", description="how values are chosen: Gaussian process, TPE, at random, or a full grid"
    )
    scheduler: Scheduler = Field(
        "none", description="what stops weak trials early; none: every trial runs to its last epoch"
    )
    seed: int = Field(0, ge=0, description="of the search; that of the training is the configuration's")
    workers_per_trial: int = Field(1, ge=1, description="training processes of one trial")
    cpus_per_trial: int = Field(1, ge=1, description="CPU cores of each of them")
    gpus_per_trial: float = Field(
        0.0, ge=0, description="GPUs of each of them; a share lets several trials use one"
    )
    at_once: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="trials that run or wait for resources at the same time; more than fit let an autoscaler start "
        "nodes; none: as many as fit on the nodes that are there, and at least one",
    )
    max_failures: int | None = Field(None, ge=0, description="more failed trials than that end the study")
    objective: Objective = Field(
        "accuracy", description="what counts; with latency, the study also searches widths"
    )
    latency_batch: int = Field(1, ge=1, le=4096, description="images of the forward pass that is timed")
    latency_budget_ms: float | None = Field(
        None, gt=0, description="longest forward pass of the winner; none: the front's knee"
    )
    workers: int | None = Field(
        None, ge=1, description="of the winner's training; none: as `raycls train` chooses"
    )
    refit: bool = Field(
        False,
        description="whether the winner is trained once more, on train and val, and that version is promoted",
    )
    promote: bool = Field(True, description="whether a winner that passes the gate becomes champion")

    @property
    def metric(self) -> str:
        """Return the name in MLflow of the metric that the study goes by. It also chooses the epoch of a training."""
        return self.config.training.chosen_by

    @property
    def timed(self) -> bool:
        """Return whether latency is an objective too."""
        return self.objective == "accuracy,latency"

    @property
    def trial_config(self) -> Config:
        """Return the configuration of a trial without the trial's own values."""
        # The learning-rate schedule must end within the trial, so a short trial has its own number of epochs.
        frozen = min(self.config.training.frozen_epochs, self.max_epochs // 2)
        return override(
            self.config, [f"training.epochs={self.max_epochs}", f"training.frozen_epochs={frozen}"]
        )

    def params(self) -> dict[str, Any]:
        studied = {
            name: getattr(self, name)
            for name in (
                "trials",
                "max_epochs",
                "search",
                "scheduler",
                "objective",
                "workers_per_trial",
                "cpus_per_trial",
            )
        }
        space = {
            f"space.{path}": domain.model_dump_json(exclude_defaults=True)
            for path, domain in self.space.items()
        }
        return {**super().params(), **studied, **space, "study_seed": self.seed}


def shown(metric: str, score: float | None) -> str:
    """Return a score as the value of its metric, with four digits after the point."""
    return "" if score is None else f"{metrics.oriented(metric, score):.4f}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The state and the result of one trial.

    values: the trial's setting values, by path.
    score: the study's metric at the best epoch, None before the first epoch has ended. A higher score is better: for
    val_loss it is the negative loss.
    epochs, seconds: epochs that have ended, and seconds in the training loop.
    asked_at, ended_at: start and end, in seconds since 1970.
    latency_ms: latency of the trial's architecture, None if latency is no objective.
    metric: the name of the score in MLflow.
    given: True for the configuration that the user gave to the study.
    reason: why the trial failed, or empty.
    """

    number: int
    state: State
    values: dict[str, Value]
    score: float | None
    epochs: int
    seconds: float
    asked_at: float
    ended_at: float | None
    latency_ms: float | None = None
    metric: str = METRIC
    given: bool = False
    reason: str = ""

    @property
    def scored(self) -> bool:
        return self.state in ("done", "stopped early") and self.score is not None

    @property
    def told_score(self) -> str:
        """Return the score as text: `val_accuracy 0.8912`."""
        return f"{self.metric} {shown(self.metric, self.score)}"

    def config(self, base: Config) -> Config:
        """Return the base configuration with this trial's values."""
        return configured(base, self.values)

    def told(self) -> str:
        """Return the values as short text: `lr 0.24  batch_size 1000`."""
        shown = ((path.split(".")[1], value) for path, value in self.values.items())
        return "  ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in shown)
