"""A study from its first trial to a registered model, and again from wherever it was broken off.

    job = plan("cifar10", preset("fast", manifest), trials=24, max_epochs=2)
    outcome = tune(job)
    outcome = resume("cifar10", "cifar10-study-20260114-101500-3f2a")

The winner is trained in full, not continued: a trial is shorter than the winner's training and may see fewer images,
and its learning rate has fallen to 0, so there is nothing to go on from.
"""

from __future__ import annotations

import re
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raycls import cluster, home, progress, registry, tracking
from raycls.config import Config, override
from raycls.data.packed import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import RefusedError, StudyError, UsageError
from raycls.registry.checks import examine
from raycls.reports.study_report import pareto_png, write_report
from raycls.tracking import resumable
from raycls.training import trainer
from raycls.training.checkpoints import CheckpointStore
from raycls.training.compare import better
from raycls.training.evaluation import evaluate
from raycls.training.trainer import TrainingResult
from raycls.tuning.lineage import LR_FACTOR
from raycls.tuning.pareto import choose, pareto_front
from raycls.tuning.progress_table import Display
from raycls.tuning.record import StudyRecord
from raycls.tuning.spec import METRIC, StudySpec, Trial

# The more images a run sees, the lower its best learning rate: images ** -0.32 (Bjorck et al., Scaling Optimal LR
# Across Token Horizons, 2024). In short trials, rates win with which a whole training does badly.
LR_EXPONENT = -0.32


@dataclass(frozen=True, kw_only=True)
class Study:
    """A finished search."""

    name: str
    run_id: str
    spec: StudySpec
    trials: tuple[Trial, ...]

    @property
    def front(self) -> list[Trial]:
        """The Pareto front of accuracy and latency; empty where latency did not count."""
        return pareto_front(self.trials)

    @property
    def best(self) -> Trial:
        """The most accurate trial; of a study that looks at latency too, the front's within the budget or its knee."""
        if self.spec.timed:
            return choose(self.front, self.spec.latency_budget_ms)
        return max(
            (trial for trial in self.trials if trial.scored), key=lambda t: (t.val_accuracy or 0, -t.number)
        )

    @property
    def lr_factor(self) -> float:
        """What the winner's learning rate is multiplied by for a training longer than its trial.

        1 where it was not searched, and for the configuration that was given: that is for the whole training already.
        """
        if self.best.given or "optim.lr" not in self.best.values:
            return 1.0
        training = self.best.config(self.spec.config).training
        times = training.epochs / (self.spec.max_epochs * training.train_fraction)
        return float(max(1.0, times) ** LR_EXPONENT)

    @property
    def config(self) -> Config:
        """The winner's, at full length and on all the images, with the learning rate that suits so many."""
        won = self.best.config(self.spec.config)
        return override(won, ["training.train_fraction=1.0", f"optim.lr={won.optim.lr * self.lr_factor!r}"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A study and the model that came of it; whether that is the champion now."""

    study: Study
    training: TrainingResult
    promoted: bool


def tune(
    spec: StudySpec, name: str | None = None, *, trained: Callable[[TrainingResult], None] | None = None
) -> Outcome:
    """Search, train the winner in full, register it, and make it champion where it beats the present one.

    name (default: the dataset's, the time and four letters) is the study's in Optuna's storage and in MLflow. "Beats"
    is a higher val_accuracy; the test split has no say. trained is called with the winner's training as soon as its
    model is registered, before the study's page and the promotion. Raises UsageError for a name that a study has
    already, StudyError when too many trials failed, BrokenOffError where `resume` can go on.
    """
    name = name or f"{spec.dataset}-study-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UsageError(f"{name!r} cannot be a study's name: use letters, digits, - _ and .")
    if resumable.exists(StudySpec, name, spec.dataset):
        raise UsageError(
            f"there is a study {name!r} of {spec.dataset} already: go on with it by --resume {name}, or choose another "
            "--study"
        )
    with resumable.begin(spec, name, {}) as run:
        return _finish(_search(spec, name, run), run, trained)


def search(spec: StudySpec, name: str) -> Study:
    """The search alone, without the winner's training. Raises as `tune`."""
    with resumable.begin(spec, name, {}) as run:
        return _search(spec, name, run)


def resume(dataset_name: str, reference: str) -> Outcome:
    """Go on with a study that was broken off, where it was. reference is its name or its MLflow run's id.

    Raises UsageError where there is nothing to go on with, and as `tune`.
    """
    former = resumable.find(StudySpec, reference, dataset_name)
    former.check(open_dataset(dataset_name).manifest)
    with resumable.again(former) as run:
        return _finish(_search(former.spec, former.name, run), run)


def _search(spec: StudySpec, name: str, run: tracking.Run) -> Study:
    """Run every trial that has not run yet. Raises StudyError where all failed."""
    from raycls.tuning.execution import execute, prestart, time_architectures
    from raycls.tuning.trial import StudyContext, study_directory

    dataset = open_dataset(spec.dataset)
    cluster.connect()
    store = CheckpointStore(spec.storage, study_directory(name))
    store.prepare()
    progress.say(f"study {name}; where it is broken off: {spec.resume_command(name)}")
    prestart(spec)
    record = StudyRecord(spec, name, run)
    if spec.timed:
        _check_budget(spec, record.time_once(lambda: time_architectures(spec, dataset)))
    init = registry.resolve(spec.init) if spec.init else None
    with Display(name, spec, record.trials()) as display:
        try:
            execute(record, StudyContext(spec=spec, study=name, dataset=dataset, init=init), display, run)
        except BaseException:
            with suppress(Exception):  # what broke it off matters more
                record.interrupt()
            raise
    store.remove()
    study = Study(name=name, run_id=run.id, spec=spec, trials=record.trials())
    failed = [trial for trial in study.trials if trial.state == "failed"]
    if len(failed) == len(study.trials):
        raise StudyError(f"all {len(failed)} trials failed; the first: {failed[0].reason}")
    record.choose(study.best)
    return study


def _check_budget(spec: StudySpec, latencies_ms: dict[str, float]) -> None:
    fastest = min(latencies_ms.values())
    if spec.latency_budget_ms is not None and fastest > spec.latency_budget_ms:
        raise UsageError(
            f"no architecture is within --latency-budget-ms {spec.latency_budget_ms:g}: "
            f"the fastest takes {fastest:.2f} ms"
        )


def _finish(
    study: Study, run: tracking.Run, trained: Callable[[TrainingResult], None] | None = None
) -> Outcome:
    """Train the winner, register it, and promote it if it is better."""
    _log(study, run)
    training = _train_winner(study)
    assert training.version is not None
    if trained:
        trained(training)
    _log_page(study, run)
    with home.lock(registry.PROMOTING, "", wait=True):
        promoted = _promote_if_better(training.version)
    return Outcome(study=study, training=training, promoted=promoted)


def _promote_if_better(version: registry.ModelVersion) -> bool:
    champion = registry.champion(version.name)
    if not better(version, champion):
        return False
    try:
        fit = examine(version, champion)
    except RefusedError as error:
        progress.say(f"not promoted (`raycls promote {version.name} {version.version}` would): {error}")
        return False
    registry.promote(fit.name, fit.version)
    return True


def _log(study: Study, run: tracking.Run) -> None:
    """Log the result of the search on the study's MLflow run."""
    best, failed = study.best, sum(trial.state == "failed" for trial in study.trials)
    run.log_metrics({f"best_{METRIC}": best.val_accuracy or 0.0, "trials_failed": failed})
    run.log_params(
        {"best.trial": best.number, **{f"best.{key}": value for key, value in best.values.items()}}
    )
    run.log_json([trial.__dict__ for trial in study.trials], "trials.json")


def _log_page(study: Study, run: tracking.Run) -> None:
    """Draw the study's page and log it on the study's MLflow run."""
    with tempfile.TemporaryDirectory() as folder:
        write_report(study.name, Path(folder) / "index.html")
        if study.spec.timed:
            (Path(folder) / "pareto.png").write_bytes(pareto_png(study.trials, study.best))
        run.log_directory(Path(folder), "report")


def _train_winner(study: Study) -> TrainingResult:
    """Train the winner in full; where an earlier attempt at the study has begun or done that, go on with it."""
    spec, dataset = study.spec, open_dataset(study.spec.dataset)
    progress.say(
        f"training the winner, trial #{study.best.number} ({study.best.told()}), in full: "
        f"{study.config.training.epochs} epochs on all {dataset.manifest.counts['train']:,} images"
        + (f", with lr {study.config.optim.lr:.4g} for so many" if study.lr_factor < 1 else "")
    )
    for found in resumable.of_study(study.name, spec.dataset):
        if found.info.status != "FINISHED":
            return trainer.resume(spec.dataset, found.info.run_id)
        if version := registry.of_run(found.info.run_id):
            evaluation = evaluate(Predictor.load(registry.checkpoint(version)), dataset, "test")
            return TrainingResult(
                run_id=found.info.run_id, metrics=version.metrics, evaluation=evaluation, version=version
            )
    return trainer.train(
        spec.dataset,
        study.config,
        workers=spec.workers,
        model=spec.model,
        lineage={
            "study": study.name,
            "study_run_id": study.run_id,
            "trial": str(study.best.number),
            LR_FACTOR: repr(study.lr_factor),
        },
        init=spec.init,
        weights=spec.weights,
    )
