"""What a study is asked for, and what a trial of it came to.

    job = StudySpec(dataset="cifar10", fingerprint=…, config=config, storage=…, space=around(config, 45_000), trials=24)

Both are plain values; raycls/tuning/study.py carries a job out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from raycls.config import Config, override
from raycls.tracking.resumable import RunSpec
from raycls.tuning.space import Domain, Value, configured

METRIC = "val_accuracy"  # what a study looks for the highest of

Search = Literal["gp", "tpe", "random", "grid"]
Scheduler = Literal["asha", "hyperband", "none"]
Objective = Literal["accuracy", "accuracy,latency"]
State = Literal["waiting", "running", "done", "stopped early", "failed"]


class StudySpec(RunSpec):
    """All that a study was asked for. `config` is what its winner is trained with; the trials may be shorter."""

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

    @property
    def timed(self) -> bool:
        """Whether latency counts."""
        return self.objective == "accuracy,latency"

    @property
    def trial_config(self) -> Config:
        """What a trial is trained with, before its own values."""
        # A changed length changes what a short trial can show: the schedule falls to 0 within the trial.
        return override(self.config, [f"training.epochs={self.max_epochs}"])

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


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration that was tried: `values` by the setting's path.

    val_accuracy is its best epoch's (0..1), None before the first; seconds are those of its training loop; asked_at
    and ended_at are moments, in seconds since 1970; latency_ms is its architecture's, where the study looks for it;
    given marks the configuration that the study began with; reason says why a failed one failed.
    """

    number: int
    state: State
    values: dict[str, Value]
    val_accuracy: float | None
    epochs: int
    seconds: float
    asked_at: float
    ended_at: float | None
    latency_ms: float | None = None
    given: bool = False
    reason: str = ""

    @property
    def scored(self) -> bool:
        return self.state in ("done", "stopped early") and self.val_accuracy is not None

    def config(self, base: Config) -> Config:
        """The base configuration with this trial's values."""
        return configured(base, self.values)

    def told(self) -> str:
        """The values in short: `lr 0.24  batch_size 1000`."""
        shown = ((path.split(".")[1], value) for path, value in self.values.items())
        return "  ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in shown)
