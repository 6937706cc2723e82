"""A study: Ray Tune with Optuna over batch size, learning rate and dropout, one MLflow run per trial.

    study = search("cifar10", preset("fast", manifest), trials=8, max_epochs=2)
    result, promoted = train_best("cifar10", study)

A trial is the plain loop of raycls/training/loop.py in a process that is reused from trial to trial, so torch is
imported once and a trial costs little beyond its training. ASHA stops the hopeless ones after each epoch.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycls import cluster, home, progress, registry
from raycls.config import Config, override
from raycls.data.packed import PackedDataset, open_dataset
from raycls.errors import TrainingError, UsageError
from raycls.training import loop
from raycls.training.failures import first_cause
from raycls.training.trainer import TrainingResult, train

if TYPE_CHECKING:
    from ray.tune import ResultGrid

METRIC = "val_accuracy"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration that was tried: `values` by config path; its best val_accuracy (0..1), None if it failed."""

    number: str
    values: dict[str, Any]
    val_accuracy: float | None
    epochs: int
    state: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A finished search. `config` is the base configuration with the best trial's values, at full length.

    init and weights say where every trial's weights came from, as in `train`.
    """

    name: str
    run_id: str
    trials: tuple[Trial, ...]
    best: Trial
    config: Config
    init: str | None = None
    weights: str | None = None


def space(config: Config, images: int) -> dict[str, list[Any] | tuple[float, float]]:
    """What is searched, around the configuration: a list of choices, or the ends of a range.

    Learning rate from a quarter to four times (on a log scale), batch size from a quarter to twice (as far as the
    images in use allow), dropout from 0 to 0.5.
    """
    batch, lr = config.training.batch_size, config.optim.lr
    choices = sorted({max(2, min(images, round(batch * factor))) for factor in (0.25, 0.5, 1, 2)})
    return {
        "training.batch_size": choices,
        "optim.lr": (lr / 4, min(10.0, lr * 4)),
        "network.dropout": (0.0, 0.5),
    }


def search(
    dataset_name: str,
    config: Config,
    *,
    trials: int,
    max_epochs: int | None = None,
    seed: int = 0,
    name: str | None = None,
    init: str | None = None,
    weights: str | None = None,
) -> Study:
    """Try `trials` configurations for at most max_epochs each (default: the configuration's own).

    The first trial is the configuration itself, so a study never ends below its preset. init is a registered model to
    start every trial from, weights a file of weights or "imagenet". Raises UsageError or
    ConfigError before anything starts, TrainingError when every trial failed.
    """
    if trials < 1:
        raise UsageError(f"--trials {trials}: at least one trial is needed")
    dataset = open_dataset(dataset_name)
    # A changed length changes what a short trial can show: the schedule falls to 0 within the trial.
    short = override(config, [f"training.epochs={max_epochs}"]) if max_epochs else config
    loop.check(short, dataset)
    version = registry.resolve(init) if init else None
    cluster.connect()
    name = name or f"{dataset_name}-study-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    tags = {"kind": "study", "dataset_fingerprint": dataset.manifest.fingerprint}
    with registry.run(dataset_name, name, tags) as run:
        run.log_params({**short.flat(), "trials": trials, "study_seed": seed, "dataset": dataset_name})
        grid = _run_trials(name, run.id, short, dataset, trials, seed, version, weights)
        results = tuple(_trial(grid[i]) for i in range(len(grid)))
        scored = [trial for trial in results if trial.val_accuracy is not None]
        if not scored:
            first = next(iter(grid.errors), None)
            raise TrainingError(
                f"all {trials} trials failed; the first: {str(first).strip().splitlines()[-1]}"
            )
        best = max(scored, key=lambda trial: trial.val_accuracy or 0.0)
        run.log_metrics(
            {"best_val_accuracy": best.val_accuracy or 0.0, "trials_failed": len(results) - len(scored)}
        )
        run.log_params({f"best.{key}": value for key, value in best.values.items()})
        run.log_json([trial.__dict__ for trial in results], "trials.json")
    chosen = override(config, [f"{key}={value}" for key, value in best.values.items()])
    return Study(
        name=name,
        run_id=run.id,
        trials=results,
        best=best,
        config=chosen,
        init=version.reference if version else None,
        weights=weights,
    )


def train_best(
    dataset_name: str, study: Study, *, workers: int | None = None, model: str | None = None
) -> tuple[TrainingResult, bool]:
    """Train the study's best configuration in full, on all the training images, and register it; make it champion
    if it beats the present one.

    "Beats" is a higher val_accuracy; the test split has no say. Returns the result and whether it was promoted.
    """
    lineage = {"study": study.name, "study_run_id": study.run_id, "trial": study.best.number}
    # A study may look at a part of the images; the model that comes out of it has seen all of them.
    config = override(study.config, ["training.train_fraction=1.0"])
    result = train(
        dataset_name,
        config,
        workers=workers,
        model=model,
        lineage=lineage,
        init=study.init,
        weights=study.weights,
    )
    version = result.version
    assert version is not None
    return result, registry.promote_if_better(version, METRIC)


def _run_trials(
    name: str,
    run_id: str,
    config: Config,
    dataset: PackedDataset,
    trials: int,
    seed: int,
    init: registry.ModelVersion | None,
    weights: str | None,
) -> ResultGrid:
    # Tune's newer reporter prints to stdout even at verbose=0; the bar and the trial lines are ours. Its SIGINT handler
    # ends the study as if it were complete.
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
    import optuna
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    domains: dict[str, Any] = {}
    first = config.flat()
    for path, domain in space(config, loop.images_in_use(config, dataset)).items():
        if isinstance(domain, list):
            domains[path] = tune.choice(domain)
        elif path == "optim.lr":
            domains[path] = tune.loguniform(*domain)
        else:
            domains[path] = tune.uniform(*domain)
    free = ray.available_resources()
    per_trial: dict[str, float] = {"GPU": 1} if free.get("GPU", 0) >= 1 else {"CPU": 1}
    slots = max(1, int(free.get("GPU" if "GPU" in per_trial else "CPU", 1)))
    experiment = registry.experiment(dataset.manifest.name)
    trainable = tune.with_parameters(_trial_loop, base=config, dataset=dataset, init=init, weights=weights)
    with progress.bar(f"study {name}: starting {slots} trial processes", total=trials) as bar:
        tuner = tune.Tuner(
            tune.with_resources(trainable, per_trial),
            param_space=domains,
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                num_samples=trials,
                # Without a limit, a search algorithm is asked for one trial at a time.
                max_concurrent_trials=min(slots, trials),
                reuse_actors=True,
                search_alg=OptunaSearch(
                    seed=seed, points_to_evaluate=[{path: first[path] for path in domains}]
                ),
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=config.training.epochs, grace_period=1, reduction_factor=3
                ),
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=home.storage(),
                verbose=0,
                callbacks=[
                    MLflowLoggerCallback(
                        tracking_uri=home.tracking_uri(),
                        experiment_name=registry.client().get_experiment(experiment).name,
                        tags={"mlflow.parentRunId": run_id, "study": name, "kind": "trial"},
                    ),
                    _progress_callback(bar, trials),
                ],
            ),
        )
        return tuner.fit()


def _trial_loop(
    values: dict[str, Any],
    base: Config,
    dataset: PackedDataset,
    init: registry.ModelVersion | None,
    weights: str | None,
) -> None:
    """One trial: the plain loop, with Tune as the one who hears of each epoch."""
    import torch
    from ray import tune

    cpus = tune.get_context().get_trial_resources().required_resources.get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
    config = override(base, [f"{path}={value}" for path, value in values.items()])
    loop.fit(
        config,
        dataset,
        on_epoch=lambda metrics, snapshot: tune.report(metrics),
        device="cuda" if torch.cuda.is_available() else "cpu",
        init=registry.checkpoint(init) if init else None,
        weights=weights,
    )


def _progress_callback(bar: progress.Bar, trials: int) -> Any:
    """A Tune callback that turns trial events into the bar and one line per finished trial."""
    from ray.tune import Callback

    class Show(Callback):
        done = 0
        best = 0.0

        def on_trial_result(
            self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
        ) -> None:
            self.best = max(self.best, result[METRIC])
            running = sum(t.status == "RUNNING" for t in trials)
            bar.describe(f"tuning: {running} trials running, best val_accuracy {self.best:.4f}")

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            epochs = int(trial.last_result["epoch"])
            self._end(trial, f"val_accuracy {trial.last_result[METRIC]:.4f} after {epochs} epochs")

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            self._end(
                trial, f"failed: {first_cause(trial.get_error() or TrainingError('its process ended'))}"
            )

        def _end(self, trial: Any, outcome: str) -> None:
            self.done += 1
            bar.update(self.done)
            values = "  ".join(f"{path.split('.')[1]} {value:.4g}" for path, value in trial.config.items())
            progress.say(f"  trial {self.done}/{trials}  {values}  {outcome}")

    return Show()


def _trial(result: Any) -> Trial:
    metrics = result.metrics or {}
    frame = result.metrics_dataframe
    scored = result.error is None and frame is not None and METRIC in frame
    return Trial(
        number=str(metrics.get("trial_id", result.path.rsplit("/", 1)[-1])),
        values=dict(result.config),
        val_accuracy=float(frame[METRIC].max()) if scored else None,
        epochs=int(metrics.get("epoch", 0)),
        state="failed" if result.error else "done",
    )
