"""Runs a study from its first trial to a registered model, and resumes an interrupted study.

    spec = plan("cifar10", preset("fast", info), trials=24, max_epochs=2)
    outcome = tune(spec)
    outcome = resume("cifar10", "cifar10-study-20260114-101500-3f2a")

The winner's training starts from the beginning, not from the trial's checkpoint. At the end of a trial the learning
rate is 0, and a trial may have fewer epochs and fewer images than the full training.
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
from typing import Any

from raycls import cluster, progress, registry, tracking
from raycls.config import Config, override
from raycls.data.layout import parse
from raycls.engines.predictor import Predictor
from raycls.errors import StudyError, UsageError
from raycls.metrics import oriented
from raycls.registry.gate import promote_if_better
from raycls.registry.policy import PromotionPolicy
from raycls.reports.study_report import pareto_png, write_report
from raycls.tracking import resumable
from raycls.training import trainer
from raycls.training.checkpoints import CheckpointStore
from raycls.training.evaluation import evaluate
from raycls.training.filing import TrainingResult
from raycls.training.refit import refit, tag_of
from raycls.training.scaling import share_with_nodes
from raycls.tuning.lineage import LR_FACTOR
from raycls.tuning.pareto import choose, pareto_front
from raycls.tuning.progress_table import Display
from raycls.tuning.record import StudyRecord
from raycls.tuning.spec import StudySpec, Trial

# The best learning rate falls with the number of images that a run sees: images ** -0.32 (Bjorck et al., Scaling
# Optimal LR Across Token Horizons, 2024). The best rate of a short trial is too high for the full training.
LR_EXPONENT = -0.32


@dataclass(frozen=True, kw_only=True)
class Study:
    """A finished search, before the winner's training."""

    name: str
    run_id: str
    spec: StudySpec
    trials: tuple[Trial, ...]

    @property
    def front(self) -> list[Trial]:
        """Return the Pareto front of accuracy and latency. It is empty if latency is no objective."""
        return pareto_front(self.trials)

    @property
    def best(self) -> Trial:
        """Return the trial with the best score. If latency counts too, `pareto.choose` picks a trial of the front."""
        if self.spec.timed:
            return choose(self.front, self.spec.latency_budget_ms)
        return max(
            (trial for trial in self.trials if trial.scored), key=lambda t: (t.score or 0.0, -t.number)
        )

    @property
    def lr_factor(self) -> float:
        """Return the factor for the winner's learning rate when its training is longer than its trial.

        The factor is 1 if the learning rate was not searched. It is also 1 if the winner is the given configuration,
        because the user chose its learning rate for the full training.
        """
        if self.best.given or "optim.lr" not in self.best.values:
            return 1.0
        training = self.best.config(self.spec.config).training
        times = training.epochs / (self.spec.max_epochs * training.train_fraction)
        return float(max(1.0, times) ** LR_EXPONENT)

    @property
    def config(self) -> Config:
        """Return the configuration of the winner's full training: all epochs, all images, scaled learning rate."""
        won = self.best.config(self.spec.config)
        return override(won, ["training.train_fraction=1.0", f"optim.lr={won.optim.lr * self.lr_factor!r}"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A study and the training of its winner. `promoted`: the new model became champion."""

    study: Study
    training: TrainingResult
    promoted: bool


def tune(
    spec: StudySpec, name: str | None = None, *, trained: Callable[[TrainingResult], None] | None = None
) -> Outcome:
    """Search, train the winner in full, register it, and promote it if it is better than the champion.

    name: the study's name in Optuna's storage and in MLflow. Default: the dataset's name, the time and four letters.
    trained: called with the result of the winner's training as soon as the model is registered. The study's page and
    the promotion come after that.
    The promotion compares both on the split `gate` (raycls/registry/gate.py).
    Raises UsageError if the name is taken, StudyError if too many trials failed, and BrokenOffError if the study was
    interrupted and `resume` can continue it.
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
    """Run the search alone, without the winner's training. Raises as `tune`."""
    with resumable.begin(spec, name, {}) as run:
        return _search(spec, name, run)


def resume(dataset_name: str, reference: str) -> Outcome:
    """Continue an interrupted study. reference is its name or the id of its MLflow run.

    Raises UsageError if there is nothing to continue. Otherwise raises as `tune`.
    """
    former = resumable.find(StudySpec, reference, parse(dataset_name)[0])
    with resumable.again(former) as run:
        return _finish(_search(former.spec, former.name, run), run)


def _search(spec: StudySpec, name: str, run: tracking.Run) -> Study:
    """Run all remaining trials and return the study. Raises StudyError if every trial failed."""
    from raycls.tuning.execution import execute, prestart, time_architectures
    from raycls.tuning.trial import StudyContext, study_directory

    dataset = spec.open_dataset()
    cluster.connect()
    if not cluster.is_private():  # nodes may join while it runs
        share_with_nodes(dataset)
    store = CheckpointStore(spec.storage, study_directory(name))
    store.prepare()
    progress.say(f"study {name}; to continue it after an interruption: {spec.resume_command(name)}")
    prestart(spec)
    run.log_dataset(dataset.info)
    record = StudyRecord(spec, name, run)
    if spec.timed:
        _check_budget(spec, record.time_once(lambda: time_architectures(spec, dataset)))
    init = registry.resolve(spec.init) if spec.init else None
    with Display(name, spec, record.trials()) as display:
        try:
            execute(record, StudyContext(spec=spec, study=name, dataset=dataset, init=init), display, run)
        except BaseException:
            with suppress(Exception):  # the first error matters more
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
    """Train the winner, register it, and promote it if the study may and it is better than the champion."""
    _log(study, run)
    training = train_in_full(study)
    if study.spec.refit and training.version:
        training = _refit(training.version, study.spec)
    assert training.version is not None
    if trained:
        trained(training)
    _log_page(study, run)
    policy = PromotionPolicy(metric=study.spec.config.training.metric)
    promoted = promote_if_better(training.version, policy, by=f"study {study.name}")
    return Outcome(study=study, training=training, promoted=promoted)


def _log(study: Study, run: tracking.Run) -> None:
    """Log the result of the search to the study's MLflow run."""
    spec, best, failed = study.spec, study.best, sum(trial.state == "failed" for trial in study.trials)
    run.log_metrics(
        {f"best_{spec.metric}": oriented(spec.metric, best.score or 0.0), "trials_failed": failed}
    )
    run.log_params(
        {"best.trial": best.number, **{f"best.{key}": value for key, value in best.values.items()}}
    )
    run.log_json([trial.__dict__ for trial in study.trials], "trials.json")
    run.log_tables({"trials_table.json": _columns(study.trials)})


def _columns(trials: tuple[Trial, ...]) -> dict[str, list[Any]]:
    """Return the trials as a table: its columns by name."""
    paths = dict.fromkeys(path for trial in trials for path in trial.values)
    scores = [None if trial.score is None else oriented(trial.metric, trial.score) for trial in trials]
    return {
        "trial": [trial.number for trial in trials],
        **{path: [trial.values.get(path) for trial in trials] for path in paths},
        trials[0].metric: scores,
        "epochs": [trial.epochs for trial in trials],
        "seconds": [trial.seconds for trial in trials],
        "state": [trial.state for trial in trials],
    }


def _log_page(study: Study, run: tracking.Run) -> None:
    """Draw the study's page and log it to the study's MLflow run."""
    with tempfile.TemporaryDirectory() as folder:
        write_report(study.name, Path(folder) / "index.html")
        if study.spec.timed:
            (Path(folder) / "pareto.png").write_bytes(pareto_png(study.trials, study.best))
        run.log_directory(Path(folder), "report")


def train_in_full(study: Study) -> TrainingResult:
    """Train the study's best trial in full. If an earlier attempt began this, continue it or return its result."""
    spec, dataset = study.spec, study.spec.open_dataset()
    on_gpus = True if spec.gpus_per_trial else None  # as the trials
    progress.say(
        f"training trial #{study.best.number} ({study.best.told()}), in full: "
        f"{study.config.training.epochs} epochs on all {dataset.info.counts['train']:,} images"
        + (f", with lr {study.config.optim.lr:.4g} for the longer training" if study.lr_factor < 1 else "")
    )
    if former := _former(spec, {"study": study.name, "trial": str(study.best.number)}):
        return former
    return trainer.train(
        dataset.info.reference,
        study.config,
        workers=spec.workers,
        use_gpu=on_gpus,
        model=spec.model,
        lineage={
            "study": study.name,
            "study_run_id": study.run_id,
            "trial": str(study.best.number),
            LR_FACTOR: repr(study.lr_factor),
        },
        init=spec.init,
        weights=spec.weights,
        log=spec.log,
    )


def _refit(winner: registry.ModelVersion, spec: StudySpec) -> TrainingResult:
    """Train the winner's settings again on train and val, unless an earlier attempt did."""
    if former := _former(spec, {resumable.REFIT: tag_of(winner)}):
        return former
    on_gpus = True if spec.gpus_per_trial else None
    return refit(winner.reference, workers=spec.workers, use_gpu=on_gpus, model=spec.model)


def _former(spec: StudySpec, tags: dict[str, str]) -> TrainingResult | None:
    """Return the result of a training that an earlier attempt began, which is continued first, or None."""
    for found in resumable.tagged(spec.dataset, tags):
        if found.info.status != "FINISHED":
            on_gpus = True if spec.gpus_per_trial else None
            return trainer.resume(spec.dataset, found.info.run_id, use_gpu=on_gpus)
        if version := registry.of_run(found.info.run_id):
            evaluation = evaluate(Predictor.load(registry.checkpoint(version)), spec.open_dataset(), "test")
            return TrainingResult(
                run_id=found.info.run_id, metrics=version.metrics, evaluation=evaluation, version=version
            )
    return None
