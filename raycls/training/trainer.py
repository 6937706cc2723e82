"""One training run under Ray Train: data-parallel workers, the best checkpoint, an MLflow run, a model version.

    result = train("digits", preset("smoke", open_dataset("digits").manifest))
    result.version.reference, result.metrics["test_accuracy"]

What happens within a step is raycls/training/loop.py's; this module starts the workers, listens to them, and files
what they made.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycls import cluster, home, progress, registry
from raycls.config import Config
from raycls.data.packed import PackedDataset, open_dataset
from raycls.errors import RayclsError, TrainingError, UsageError
from raycls.models import checkpoint
from raycls.models.predictor import Predictor
from raycls.training import loop
from raycls.training.evaluation import Evaluation, confusion_png, evaluate

if TYPE_CHECKING:
    from ray.util.queue import Queue

# glibc hands large buffers back to the kernel at every step and has them zeroed again; with these it keeps them.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
IMAGES_PER_WORKER = 250
RELEASE_S = 5  # how long to wait for the processes of a study that has just ended to give their CPUs back


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run. metrics: the best epoch's and the test split's. version: None when nothing was registered."""

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
) -> TrainingResult:
    """Train, keep the epoch with the best validation accuracy, evaluate that one on test, log and register it.

    workers defaults to one per GPU, or to as many CPU workers as the batch feeds. model is the registered name
    (default: the dataset's). lineage adds tags such as the study and trial that the configuration comes from.

    Raises ConfigError before anything starts; TrainingError when a worker failed; KeyboardInterrupt after the
    workers were stopped and the MLflow run closed.
    """
    dataset = open_dataset(dataset_name)
    loop.check(config, dataset)
    cluster.connect()
    scaling = _scaling(workers, config.training.batch_size)
    name = f"{dataset_name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    tags = {"kind": "training", "dataset_fingerprint": dataset.manifest.fingerprint, **(lineage or {})}
    with registry.run(dataset_name, name, tags) as run:
        run.log_params({**config.flat(), "workers": scaling["num_workers"], "dataset": dataset_name})
        best = _run_workers(name, config, dataset, scaling, run)
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / registry.CHECKPOINT
            _copy_model(best, directory)
            evaluation = evaluate(Predictor.load(directory), dataset, "test")
            card = checkpoint.update_metrics(directory, evaluation.metrics("test"))
            run.log_metrics(card.metrics, step=int(card.metrics["epoch"]))
            _log_report(run, evaluation, dataset)
            version = None
            if register:
                version = registry.register(
                    model or dataset_name,
                    run,
                    directory,
                    fingerprint=dataset.manifest.fingerprint,
                    metrics=card.metrics,
                    lineage={"run_id": run.id, **(lineage or {})},
                )
            else:
                run.log_checkpoint(directory)
    return TrainingResult(run_id=run.id, metrics=card.metrics, evaluation=evaluation, version=version)


def _scaling(workers: int | None, batch_size: int) -> dict[str, Any]:
    """Ray's ScalingConfig: one worker per GPU, or the free CPU cores divided among workers.

    By default a CPU worker per core, as long as each still gets IMAGES_PER_WORKER of a batch: processes that meet once
    a step lose less to what else runs on the machine than threads that meet at every layer.
    """
    import ray

    total = int(ray.cluster_resources().get("CPU", 1))
    deadline = time.monotonic() + RELEASE_S
    while int((free := ray.available_resources()).get("CPU", 0)) < total and time.monotonic() < deadline:
        time.sleep(0.2)
    gpus, cpus = int(free.get("GPU", 0)), int(free.get("CPU", 0))
    if gpus and (workers or gpus) <= gpus:
        return {"num_workers": workers or gpus, "use_gpu": True}
    if (workers or 1) > total:
        raise UsageError(f"--workers {workers} is more than the cluster's {total} CPUs")
    if cpus < max(workers or 1, total):
        progress.say(
            f"{cpus} of the cluster's {total} CPUs are free: other work, like serving, holds the rest"
        )
    count = workers or max(1, min(cpus, batch_size // IMAGES_PER_WORKER))
    return {"num_workers": count, "resources_per_worker": {"CPU": max(1, cpus // count)}}


def _run_workers(
    name: str, config: Config, dataset: PackedDataset, scaling: dict[str, Any], run: registry.Run
) -> Any:
    """Run the Ray Train job and return its best checkpoint (ray.train.Checkpoint)."""
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    events = Queue(actor_options={"num_cpus": 0})
    trainer: Any = TorchTrainer(
        _worker,
        train_loop_config={"config": config, "dataset": dataset, "events": events},
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            name=name,
            storage_path=home.storage(),
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="val_accuracy"),
            worker_runtime_env={"env_vars": ALLOCATOR},  # type: ignore[call-arg]  # mypy sees Train V1's
        ),
    )
    finished = threading.Event()
    listener = threading.Thread(target=_listen, args=(events, run, config, scaling, finished), daemon=True)
    listener.start()
    previous = signal.getsignal(signal.SIGINT)
    try:
        result = trainer.fit()
    except SystemExit:
        # Ray's own SIGINT handler has stopped the workers and then exits with 0, as if all had gone well.
        raise KeyboardInterrupt from None
    except Exception as error:
        raise first_cause(error) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, previous)
        finished.set()
        listener.join(timeout=10)
        events.shutdown()
    return result.get_best_checkpoint("val_accuracy", "max")


def _worker(job: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    workers = loop.Workers(context.get_world_rank(), context.get_world_size())
    tell = job["events"].actor.put_nowait  # no answer is awaited: training never waits for its audience
    last = 0.0

    def on_step(done: int, total: int) -> None:
        nonlocal last
        if workers.rank == 0 and time.monotonic() - last > 0.5:
            last = time.monotonic()
            tell.remote(("step", done, total))

    def on_epoch(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
        if workers.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            snapshot.save(Path(folder))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        tell.remote(("epoch", metrics))

    def fit(resume: Path | None) -> None:
        device = ray.train.torch.get_device()
        loop.fit(
            job["config"], job["dataset"],
            on_epoch=on_epoch, on_step=on_step, device=device, workers=workers, resume=resume,
        )  # fmt: skip

    if latest := ray.train.get_checkpoint():
        with latest.as_directory() as folder:
            fit(Path(folder))
    else:
        fit(None)


def _listen(
    events: Queue, run: registry.Run, config: Config, scaling: dict[str, Any], finished: threading.Event
) -> None:
    """Show and log what the workers tell, until they are done: a bar, a line and a point on the curves per epoch."""
    count = scaling["num_workers"]
    kind = "GPU" if scaling.get("use_gpu") else f"{scaling['resources_per_worker']['CPU']} CPU"

    def next_event() -> Any:
        from ray.util.queue import Empty

        while True:
            try:
                return events.get(timeout=0.5)
            except Empty:
                if finished.is_set():
                    return None
            except Exception:  # the queue's actor dies with the cluster; the run itself reports why
                return None

    with progress.bar(f"starting {count} training worker{'s' if count > 1 else ''} × {kind}"):
        event = next_event()
    if event is None:
        return
    epochs = config.training.epochs
    with progress.bar(f"training {epochs} epochs", total=epochs) as bar:
        while event is not None:
            if event[0] == "step":
                bar.update(epochs * event[1] / event[2])
            else:
                metrics = event[1]
                epoch = int(metrics["epoch"])
                run.log_metrics(metrics, step=epoch)
                progress.say(
                    f"  epoch {epoch}/{epochs}  train_loss {metrics['train_loss']:.3f}  val_loss "
                    f"{metrics['val_loss']:.3f}  val_accuracy {metrics['val_accuracy']:.4f}  "
                    f"{metrics['images_per_s']:,.0f} images/s"
                )
                bar.update(epoch)
            event = next_event()


def first_cause(error: Exception) -> RayclsError:
    """The reason within Ray's report of a failure: our own error as it was raised, or the last line of another's."""
    cause: BaseException = next(iter(getattr(error, "worker_failures", {}).values()), error)
    # Ray's wrappers hold what they wrap as `cause`, also where they pose as an instance of its class.
    while (
        inner := getattr(cause, "cause", None)
        or getattr(cause, "controller_failure", None)
        or cause.__cause__
    ):
        cause = inner
    if isinstance(cause, RayclsError):
        return cause
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return TrainingError(f"a training worker failed: {lines[-1].strip() if lines else type(cause).__name__}")


def _copy_model(source: Any, directory: Path) -> None:
    """The weights and the card alone: what resuming needs stays in the run's storage."""
    directory.mkdir()
    with source.as_directory() as folder:
        for name in (checkpoint.WEIGHTS, checkpoint.CARD):
            (directory / name).write_bytes((Path(folder) / name).read_bytes())


def _log_report(run: registry.Run, evaluation: Evaluation, dataset: PackedDataset) -> None:
    run.log_bytes(confusion_png(evaluation, f"{dataset.manifest.name}, test split"), "confusion_matrix.png")
    run.log_json(
        {"classes": evaluation.classes, "confusion": evaluation.confusion.tolist()}, "confusion_matrix.json"
    )
    run.log_json(evaluation.class_accuracy, "class_accuracy.json")
    run.log_json(dataset.manifest.model_dump(mode="json"), "dataset.json")
