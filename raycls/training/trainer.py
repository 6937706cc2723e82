"""Run one training with Ray Train: data-parallel workers, the best checkpoint, an MLflow run, a model version.

    result = train("digits", preset("smoke", open_dataset("digits").info))
    result.version.reference, result.metrics["test_accuracy"]

If a worker dies, Ray starts the workers again from the last checkpoint. If the whole run was interrupted, `resume`
continues it. This module starts the workers, then evaluates, logs and registers their result. worker.py is the code of
one worker, loop.py the training loop, checkpoints.py the storage, and raycls/tracking/resumable.py the MLflow run.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from raycls import cluster, home, progress, registry, tracking
from raycls.config import Config
from raycls.data.layout import parse
from raycls.data.packed import PackedDataset
from raycls.data.prepare import open_or_prepare
from raycls.data.subsets import Subset, described
from raycls.errors import RayclsError, TrainingError, UsageError
from raycls.models.card import CARD, WEIGHTS, update_card
from raycls.tracking import resumable
from raycls.tracking.resumable import TrainingSpec
from raycls.training import ending, setup
from raycls.training.checkpoints import CheckpointStore, SavedCheckpoint
from raycls.training.events import EpochListener, EpochLogger, listening
from raycls.training.failures import check_unchanged, final_errors, first_cause, unfinished, with_way_out
from raycls.training.filing import TrainingResult, filed
from raycls.training.profile import log_profile
from raycls.training.sampling import images_in_use
from raycls.training.scaling import on_one_node, scaling_of, share_with_nodes
from raycls.training.watch import WatchedEpochs
from raycls.training.worker import SCORE, work

# How often dead workers are started again. If they die each time, a person must look at the machine.
RESTARTS = 3
SHORT_EPOCH = 10_000  # images: a shorter epoch may end within two seconds, so the controller polls more often


def train(
    reference: str,
    config: Config,
    *,
    workers: int | None = None,
    use_gpu: bool | None = None,
    register: bool = True,
    model: str | None = None,
    lineage: dict[str, str] | None = None,
    init: str | None = None,
    pruned: Path | None = None,
    weights: str | None = None,
    log: Sequence[str] = (),
    profile: bool = False,
    subset: Subset | None = None,
    temperature: float = 1.0,
) -> TrainingResult:
    """Train a model. Evaluate the best epoch (`TrainingConfig.chosen_by`) on the test split, log it and register it.

    workers: by default one per GPU, or one per CPU, but no more than the batch size allows (IMAGES_PER_WORKER).
    use_gpu: by default where a GPU is free; see `raycls.training.scaling.scaling_of`.
    reference: the dataset, NAME or NAME@VERSION. model: the registered name, by default the dataset's name. lineage:
    further tags, such as the study and the trial of the configuration. init: a registered model to start from. pruned:
    a checkpoint of init's network without some of its channels, to start from in its place. weights: a file of weights,
    or "pretrained". log: tools to log to beside MLflow (`raycls.tracking.TOOLS`). profile: tell where the time of one
    epoch goes (raycls/training/profile.py). subset: what it learns from, by default train. temperature: of a model that
    learns val, on which it is fitted otherwise.

    Raises UsageError before training starts, TrainingError if the run fails, and BrokenOffError if `resume` can
    continue it. Raises KeyboardInterrupt after it has stopped the workers and closed the MLflow run.
    """
    tracking.check(log)
    if profile and config.training.probe:
        raise UsageError(
            "a probe has no training steps to profile: leave out --profile, or take another preset"
        )
    if model:
        registry.check_name(model)
    dataset = open_or_prepare(reference)
    dataset_name = dataset.info.name
    learned = described(dataset, subset) if subset else dataset
    setup.check(config, learned, workers or 1)
    if register and not model:
        registry.check_name(dataset_name)
    lineage = dict(lineage or {})
    if init:
        version = registry.resolve(init)
        init, lineage["init"] = version.reference, f"{version.reference} sha256:{version.sha256}"
    if weights:
        lineage["weights"] = weights
    name = f"{dataset_name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    store = CheckpointStore(home.storage(), name)
    cluster.connect()
    scaling = scaling_of(workers, config.training.batch_size, use_gpu)
    setup.check_precision(config, scaling)
    store.prepare()
    if pruned:
        store.keep_start(pruned)
    spec = TrainingSpec(
        dataset=dataset_name,
        dataset_version=dataset.info.version,
        fingerprint=dataset.info.fingerprint,
        config=config,
        workers=scaling["num_workers"],
        storage=store.uri,
        model=(model or dataset_name) if register else None,
        lineage=lineage,
        init=init,
        weights=weights,
        log=tuple(log),
        profile=profile,
        subset=subset,
        temperature=temperature,
    )
    with resumable.begin(spec, name, lineage) as run:
        run.log_dataset(dataset.info)
        return _carry_out(spec, dataset, scaling, store, WatchedEpochs(run, config, learned.info))


def resume(
    dataset_name: str, reference: str, *, workers: int | None = None, use_gpu: bool | None = None
) -> TrainingResult:
    """Continue an interrupted run from its last complete checkpoint, in the same MLflow run.

    A run whose last epoch was trained starts no workers: it is evaluated and registered.

    reference: the id or name of the MLflow run. workers: by default as many as the run began with. use_gpu: as for
    `train`. Raises UsageError if the run cannot be resumed (see `resumable.find`), UnknownDatasetError if its dataset
    version is gone, and the errors of `train`.
    """
    former = resumable.find(TrainingSpec, reference, parse(dataset_name)[0])
    dataset = former.spec.open_dataset()
    progress.say(
        f"{dataset.info.reference}: " + "  ".join(f"{k}={v}" for k, v in former.spec.config.flat().items())
    )
    subset = former.spec.subset
    learned = described(dataset, subset) if subset else dataset
    setup.check(former.spec.config, learned, workers or 1)
    spec, store = former.spec, CheckpointStore(former.spec.storage, former.name)
    if not store.exists():
        raise UsageError(
            f"the checkpoints of run {former.name} are gone: there is no {store.path}; train anew"
        )
    store.prepare()
    store.tidy(spec.config.training.chosen_by)
    scaling = None
    if not ending.finished(store.history(), spec.config.training):
        cluster.connect()
        scaling = scaling_of(workers or spec.workers, spec.config.training.batch_size, use_gpu)
        setup.check_precision(spec.config, scaling)
    with resumable.again(former) as run:
        curves = WatchedEpochs(run, spec.config, learned.info, former.epochs)
        # Workers may live longer than a killed driver, so some trained epochs may be missing in MLflow.
        for metrics in store.history():
            curves.add(metrics)
        return _carry_out(spec, dataset, scaling, store, curves)


def _carry_out(
    spec: TrainingSpec,
    dataset: PackedDataset,
    scaling: dict[str, Any] | None,
    store: CheckpointStore,
    curves: EpochLogger,
) -> TrainingResult:
    """Train the remaining epochs, then evaluate, log and register the best epoch. scaling: None if none remains."""
    progress.say(f"run {store.run}; to continue it after an interruption: {spec.resume_command(store.run)}")
    try:
        if scaling:
            run_workers(spec, dataset, scaling, store, curves)
    except RayclsError as error:
        raise with_way_out(error, spec, store) from error
    best = store.best(spec.config.training.chosen_by)
    if best is None:
        raise TrainingError(f"run {store.run} left no whole checkpoint in {store.path}")
    try:
        curves.flush()
        check_unchanged(dataset)
        profile = log_profile(store, curves.run) if spec.profile else None
        result = _file(best, store.history()[-1], spec, dataset, curves.run)
        return replace(result, profile=profile)
    except Exception as error:  # also from MLflow, its server, or the file system of the artifacts
        raise unfinished(error, spec, best, store) from error


def _file(
    best: SavedCheckpoint,
    last: dict[str, float],
    spec: TrainingSpec,
    dataset: PackedDataset,
    run: tracking.Run,
) -> TrainingResult:
    """File the best epoch. last: the metrics of the last epoch."""
    with tempfile.TemporaryDirectory() as folder, best.directory() as source:
        directory = Path(folder) / tracking.CHECKPOINT
        directory.mkdir()
        for name in (WEIGHTS, CARD):  # the state for resuming stays in the run's storage
            shutil.copyfile(source / name, directory / name)
        if spec.subset:
            learned = spec.subset.splits
            update_card(directory, metrics={}, learned_splits=learned, temperature=spec.temperature)
        more = {"total_train_seconds": last["train_seconds"]}
        return filed(directory, dataset, run, spec.model, spec.lineage, more=more, step=best.epoch)


def run_workers(
    spec: TrainingSpec,
    dataset: PackedDataset,
    scaling: dict[str, Any],
    store: CheckpointStore,
    curves: EpochListener,
    name: str | None = None,
) -> None:
    """Run the Ray Train job as the store's next attempt.

    curves: receives the metrics of each epoch. name: see `make_trainer`. Raises the RayclsError that stopped the job.
    Raises KeyboardInterrupt after Ctrl-C has stopped the workers.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

    from raycls.ray_patches.train_processes import make_trainer
    from raycls.training.process_group import on_several_nodes

    task = {
        "job": spec,
        "dataset": dataset,
        "store": store,
        "former": store.last(),
        "init": store.start() or (registry.resolve(spec.init) if spec.init else None),
    }
    attempt, here = store.next_attempt(), on_one_node(scaling)
    if not here:
        share_with_nodes(dataset)
    run_config = RunConfig(
        name=attempt,
        storage_path=store.root,
        storage_filesystem=store.filesystem,
        checkpoint_config=CheckpointConfig(
            num_to_keep=1,
            checkpoint_score_attribute=SCORE,
            checkpoint_score_order="max",
        ),
        failure_config=FailureConfig(max_failures=RESTARTS),
        callbacks=[final_errors()],
    )
    previous = signal.getsignal(signal.SIGINT)
    # Ray reports dead workers on stdout, which is only for results. These reports go to stderr.
    with redirect_stdout(sys.stderr), listening(curves, spec.config, scaling) as channel:
        trainer = make_trainer(
            work,
            train_loop_config={**task, "channel": channel},
            scaling_config=ScalingConfig(**scaling),
            run_config=run_config,
            on_one_node=here,
            torch_config=None if here else on_several_nodes(),
            poll_s=0.25 if images_in_use(spec.config, dataset) < SHORT_EPOCH else 2.0,
            name=name,
        )
        try:
            trainer.fit()
        except SystemExit:
            # After Ctrl-C, Ray's SIGINT handler stops the workers and exits with 0, as after success.
            raise KeyboardInterrupt from None
        except Exception as error:
            raise first_cause(error) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, previous)
