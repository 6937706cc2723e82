"""The errors of a training run: which ones end it at once, and how to report each in one line.

    callbacks=[final_errors()]                          # for Ray's controller: no restart if it cannot help
    raise with_way_out(first_cause(error), job, store)  # what happened, what is kept, how to resume

A BrokenOffError has a cause outside the run. Its message ends with the command that resumes the run. Any other raycls
error would occur again on resume. Its message says what to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raycls import tracking
from raycls.data import packed, sharing
from raycls.data.packed import PackedDataset
from raycls.engines.memory import out_of_memory
from raycls.errors import BrokenOffError, DataError, RayclsError, TrainingError
from raycls.tracking.resumable import RunSpec
from raycls.training.checkpoints import CheckpointStore, SavedCheckpoint


def final_errors() -> Any:
    """Return a callback for Ray's controller. It ends the run at an error that would occur again after a restart.

    Without it, Ray restarts the workers after any error. When one worker dies, the others raise a RuntimeError from
    torch.distributed or an error of Ray. The callback lets Ray restart the workers after those errors only.
    """
    from ray.exceptions import RayError
    from ray.train import UserCallback

    class FinalErrors(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                of_ray = isinstance(error, RayError) or type(error).__module__.startswith("ray.")
                if not of_ray and not isinstance(error, RuntimeError):
                    raise error

    return FinalErrors()


def check_unchanged(dataset: PackedDataset) -> None:
    """Raise DataError if the dataset has changed since the run began, here or where its shards are.

    Raises StorageError if the storage path has them and does not answer.
    """
    found = packed.read(dataset.path, dataset.info.reference, dataset.storage)
    now = found.info.fingerprint
    if now != dataset.info.fingerprint:
        raise DataError(
            f"dataset {dataset.info.reference} was changed while the run went on (fingerprint "
            f"{dataset.info.fingerprint[:12]}, now {now[:12]}): train anew"
        )
    sharing.compare(found)


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Raise TrainingError if memory runs out. Its message says what to change.

    A restart would fail in the same way, and a TrainingError ends the run.
    """
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            f"a batch does not fit into memory: try --set batch_size={max(2, batch_size // 2)}"
        ) from error


def first_cause(error: Exception) -> RayclsError:
    """Return the original error inside Ray's error.

    If it is not a raycls error, return a BrokenOffError with the last line of its message.
    """
    cause: BaseException = next(iter(getattr(error, "worker_failures", {}).values()), error)
    # Ray's wrapper errors hold the original error in `cause`. Some of them are also instances of its class, so an
    # isinstance check cannot tell a wrapper from the original.
    while (
        inner := getattr(cause, "cause", None)
        or getattr(cause, "controller_failure", None)
        or cause.__cause__
    ):
        cause = inner
    if isinstance(cause, RayclsError):
        return cause
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return BrokenOffError(f"a training worker failed: {lines[-1].strip() if lines else type(cause).__name__}")


def with_way_out(cause: RayclsError, spec: RunSpec, store: CheckpointStore) -> RayclsError:
    """Return the same error with a longer message.

    It adds the checkpoint that is kept and, if resuming can help, the command for it.
    """
    message = str(cause)
    if last := store.last():
        message += f"; the checkpoint of epoch {last.epoch} is kept in {last.path}"
    if isinstance(cause, BrokenOffError):
        message += f"; go on with: {spec.resume_command(store.run)}"
    return type(cause)(message)


def unfinished(
    error: Exception, spec: RunSpec, best: SavedCheckpoint, store: CheckpointStore
) -> BrokenOffError:
    """Return the error of a run that is trained, where calibration, evaluation, MLflow or the registry has failed."""
    reason = str(error) if isinstance(error, RayclsError) else tracking.reason_of(error)
    return BrokenOffError(
        f"the model is trained, and what follows failed: {reason}; its checkpoint is {best.path}; evaluate and "
        f"register it, without training again, with: {spec.resume_command(store.run)}"
    )
