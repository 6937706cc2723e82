"""One training run under Ray Train: data-parallel workers, the best checkpoint, an MLflow run, a model version.

    result = train("digits", preset("smoke", open_dataset("digits").manifest))
    result.version.reference, result.metrics["test_accuracy"]

A worker that dies is replaced and the run goes on from its last checkpoint; where the whole run was broken off,
`resume` takes it up again. What a worker does is raycls/training/worker.py's, what happens within a step loop.py's,
what is kept of a run storage.py's and runs.py's; this module starts the workers and files what they made.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycls import cluster, home, progress, registry, tracking
from raycls.config import Config
from raycls.data.packed import PackedDataset, open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import BrokenOffError, RayclsError, TrainingError, UsageError
from raycls.models.card import CARD, WEIGHTS, update_metrics
from raycls.tracking import resumable
from raycls.tracking.resumable import TrainingSpec
from raycls.training import setup
from raycls.training.checkpoints import CheckpointStore, SavedCheckpoint
from raycls.training.evaluation import Evaluation, confusion_png, evaluate
from raycls.training.events import EpochListener, EpochLogger, listening
from raycls.training.failures import check_unchanged, final_errors, first_cause, with_way_out
from raycls.training.sampling import images_in_use
from raycls.training.worker import work

IMAGES_PER_WORKER = {"CPU": 250, "GPU": 32}  # of a batch, at least, where the number of workers is not given
RESTARTS = 3  # of the workers, after one of them died: a machine that kills them every time needs a person
SHORT_EPOCH = 10_000  # images: fewer may be trained on within two seconds
RELEASE_S = 5  # how long to wait for the processes of a study that has just ended to give their CPUs back


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run. version is None where nothing was registered.

    metrics: the best epoch's (`loop.Training.epochs` has their names), the test split's, and total_train_seconds, the
    loop's time to its last epoch.
    """

    run_id: str
    metrics: dict[str, float]
    evaluation: Evaluation
    version: registry.ModelVersion | None


def train(
    dataset_name: str,
    config: Config,
    *,
    workers: int | None = None,
    register: bool = True,
    model: str | None = None,
    lineage: dict[str, str] | None = None,
    init: str | None = None,
    weights: str | None = None,
) -> TrainingResult:
    """Train, evaluate the best epoch (by `TrainingConfig.chosen_by`) on test, log and register it.

    workers defaults to one per GPU, or one per CPU, as far as the batch feeds them. model is the registered name
    (default: the dataset's). lineage adds tags such as the study and trial that the configuration comes from.
    init is a registered model to start from, weights a file of weights or "imagenet".

    Raises UsageError before anything starts; TrainingError when the run failed (BrokenOffError: `resume` can go on
    with it); KeyboardInterrupt after the workers were stopped and the MLflow run closed.
    """
    dataset = open_dataset(dataset_name)
    setup.check(config, dataset, workers or 1)
    lineage = dict(lineage or {})
    if init:
        version = registry.resolve(init)
        init, lineage["init"] = version.reference, f"{version.reference} sha256:{version.sha256}"
    if weights:
        lineage["weights"] = weights
    name = f"{dataset_name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    store = CheckpointStore(home.storage(), name)
    store.prepare()
    cluster.connect()
    scaling = _scaling(workers, config.training.batch_size)
    spec = TrainingSpec(
        dataset=dataset_name,
        fingerprint=dataset.manifest.fingerprint,
        config=config,
        workers=scaling["num_workers"],
        storage=store.uri,
        model=(model or dataset_name) if register else None,
        lineage=lineage,
        init=init,
        weights=weights,
    )
    with resumable.begin(spec, name, lineage) as run:
        return _carry_out(spec, dataset, scaling, store, EpochLogger(run))


def resume(dataset_name: str, reference: str, *, workers: int | None = None) -> TrainingResult:
    """Resume a run from its last complete checkpoint, in the same MLflow run.

    reference is the MLflow run's id or name; workers defaults to the run's. Raises UsageError where there is nothing to
    go on with (see `resumable.find` and `UnfinishedRun.check`), and as `train`.
    """
    dataset = open_dataset(dataset_name)
    former = resumable.find(TrainingSpec, reference, dataset_name)
    former.check(dataset.manifest)
    progress.say(f"{dataset_name}: " + "  ".join(f"{k}={v}" for k, v in former.spec.config.flat().items()))
    setup.check(former.spec.config, dataset, workers or 1)
    spec, store = former.spec, CheckpointStore(former.spec.storage, former.name)
    if not store.exists():
        raise UsageError(
            f"the checkpoints of run {former.name} are gone: there is no {store.path}; train anew"
        )
    store.prepare()
    store.tidy(spec.config.training.chosen_by)
    cluster.connect()
    scaling = _scaling(workers or spec.workers, spec.config.training.batch_size)
    with resumable.again(former) as run:
        curves = EpochLogger(run, former.epochs)
        # Workers may outlive a killed driver: these epochs were trained, and never logged.
        for metrics in store.history():
            curves.add(metrics)
        return _carry_out(spec, dataset, scaling, store, curves)


def _carry_out(
    spec: TrainingSpec,
    dataset: PackedDataset,
    scaling: dict[str, Any],
    store: CheckpointStore,
    curves: EpochLogger,
) -> TrainingResult:
    """Train the remaining epochs; then evaluate, log and register the best epoch."""
    progress.say(f"run {store.run}; where it is broken off: {spec.resume_command(store.run)}")
    try:
        run_workers(spec, dataset, scaling, store, curves)
        check_unchanged(dataset)
    except RayclsError as error:
        raise with_way_out(error, spec, store) from error
    best = store.best(spec.config.training.chosen_by)
    if best is None:
        raise TrainingError(f"run {store.run} left no whole checkpoint in {store.path}")
    try:
        curves.flush()
        return _file(best, store.history()[-1], spec, dataset, curves.run)
    except RayclsError:
        raise
    except Exception as error:  # of MLflow, its server, or the file system that artifacts are copied to
        raise BrokenOffError(
            f"the trained model cannot be filed in MLflow: {tracking.reason_of(error)}; its checkpoint is "
            f"{best.path}; try again with: {spec.resume_command(store.run)}"
        ) from error


def _file(
    best: SavedCheckpoint,
    last: dict[str, float],
    spec: TrainingSpec,
    dataset: PackedDataset,
    run: tracking.Run,
) -> TrainingResult:
    """Evaluate the best epoch on test, log and register it. last: the metrics of the last epoch."""
    with tempfile.TemporaryDirectory() as folder, best.directory() as source:
        directory = Path(folder) / tracking.CHECKPOINT
        directory.mkdir()
        for name in (WEIGHTS, CARD):  # files for a resume stay in the run's storage
            shutil.copyfile(source / name, directory / name)
        evaluation = evaluate(Predictor.load(directory), dataset, "test")
        found = evaluation.metrics("test") | {"total_train_seconds": last["train_seconds"]}
        card = update_metrics(directory, found)
        run.log_metrics(found, step=best.epoch)
        _log_report(run, evaluation, dataset)
        version = None
        if spec.model:
            # A driver may have been killed right after it registered the model.
            version = registry.of_run(run.id) or registry.register(
                spec.model,
                run,
                directory,
                fingerprint=spec.fingerprint,
                metrics=card.metrics,
                lineage={"run_id": run.id, **spec.lineage},
            )
        else:
            run.log_checkpoint(directory)
    return TrainingResult(run_id=run.id, metrics=card.metrics, evaluation=evaluation, version=version)


def _scaling(workers: int | None, batch_size: int) -> dict[str, Any]:
    """Ray's ScalingConfig: one worker per GPU, or the free CPU cores divided among workers.

    By default as many as there are GPUs, or else cores, as long as each still gets IMAGES_PER_WORKER of a batch: on
    cores, processes that meet once a step lose less to what else runs on the machine than threads that meet at every
    layer.
    """
    import ray

    total = int(ray.cluster_resources().get("CPU", 1))
    deadline = time.monotonic() + RELEASE_S
    while int((free := ray.available_resources()).get("CPU", 0)) < total and time.monotonic() < deadline:
        time.sleep(0.2)
    gpus, cpus = int(free.get("GPU", 0)), int(free.get("CPU", 0))
    if gpus and (workers or gpus) <= gpus:
        count = workers or max(1, min(gpus, batch_size // IMAGES_PER_WORKER["GPU"]))
        return {"num_workers": count, "use_gpu": True}
    if (workers or 1) > total:
        raise UsageError(f"--workers {workers} is more than the cluster's {total} CPUs")
    if gpus:
        progress.say(f"training on CPUs: --workers {workers} is more than the {gpus} GPUs that are free")
    if cpus < max(workers or 1, total):
        progress.say(
            f"{cpus} of the cluster's {total} CPUs are free: other work, like serving, holds the rest"
        )
    count = workers or max(1, min(cpus, batch_size // IMAGES_PER_WORKER["CPU"]))
    each = max(1, cpus // count)
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    while each > 1 and sum(cores // each for cores in nodes) < count:
        each -= 1  # a worker's cores are all on one node
    return {"num_workers": count, "resources_per_worker": {"CPU": each}}


def run_workers(
    spec: TrainingSpec,
    dataset: PackedDataset,
    scaling: dict[str, Any],
    store: CheckpointStore,
    curves: EpochListener,
    name: str | None = None,
) -> None:
    """Run the Ray Train job, as the store's next attempt; `curves` hears of each epoch. name: see `make_trainer`.

    Raises what stopped it, in one line; KeyboardInterrupt after the workers were stopped.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

    from raycls.ray_patches.train_processes import make_trainer

    task = {
        "job": spec,
        "dataset": dataset,
        "former": store.last(),
        "init": registry.resolve(spec.init) if spec.init else None,
    }
    attempt = store.next_attempt()
    run_config = RunConfig(
        name=attempt,
        storage_path=store.root,
        storage_filesystem=store.filesystem,
        checkpoint_config=CheckpointConfig(
            num_to_keep=1, checkpoint_score_attribute=spec.config.training.chosen_by
        ),
        failure_config=FailureConfig(max_failures=RESTARTS),
        callbacks=[final_errors()],
    )
    previous = signal.getsignal(signal.SIGINT)
    # Ray prints the errors of workers on stdout, which is for results.
    with redirect_stdout(sys.stderr), listening(attempt, curves, spec.config, scaling) as channel:
        trainer = make_trainer(
            work,
            train_loop_config={**task, "channel": channel},
            scaling_config=ScalingConfig(**scaling),
            run_config=run_config,
            on_one_node=len(ray.nodes()) == 1,
            poll_s=0.25 if images_in_use(spec.config, dataset) < SHORT_EPOCH else 2.0,
            name=name,
        )
        try:
            trainer.fit()
        except SystemExit:
            # Ray's own SIGINT handler stops the workers and exits with code 0.
            raise KeyboardInterrupt from None
        except Exception as error:
            raise first_cause(error) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, previous)


def _log_report(run: tracking.Run, evaluation: Evaluation, dataset: PackedDataset) -> None:
    run.log_bytes(confusion_png(evaluation, f"{dataset.manifest.name}, test split"), "confusion_matrix.png")
    run.log_json(
        {"classes": evaluation.classes, "confusion": evaluation.confusion.tolist()}, "confusion_matrix.json"
    )
    run.log_json(evaluation.class_accuracy, "class_accuracy.json")
    run.log_json(dataset.manifest.model_dump(mode="json"), "dataset.json")
