"""Runs in MLflow: what trainings and studies write while they go on.

    with run("cifar10", "quick-1", tags={}) as current:
        current.log_params({"lr": 0.24}); current.log_metrics({"val_accuracy": 0.9}, step=1)

raycls/registry/ keeps the model versions.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycls import progress
from raycls.data.packed import DatasetInfo
from raycls.errors import RegistryError
from raycls.tracking.mlflow_client import client, experiment, find_run, reason_of
from raycls.tracking.trackers import Followers

CHECKPOINT = "checkpoint"  # the artifact directory of a run


class Run:
    """One MLflow run, and the tools that follow it (raycls/tracking/trackers.py)."""

    def __init__(self, run_id: str, followers: Followers | None = None):
        self.id = run_id
        self._followers = followers or Followers()
        self._tables: list[dict[str, str]] = []  # that MLflow's page shows

    def log_params(self, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        client().log_batch(self.id, params=[Param(key, str(value)) for key, value in params.items()])
        self._followers.tell(lambda each: each.log_params(params))

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        client().log_batch(self.id, metrics=[Metric(k, float(v), now, step) for k, v in metrics.items()])
        self._followers.tell(lambda each: each.log_metrics(metrics, step))

    def log_dataset(self, info: DatasetInfo) -> None:
        """Log a dataset version as the run's input, which MLflow's page shows."""
        from mlflow.entities import Dataset, DatasetInput

        # MLflow limits a digest to 36 characters.
        dataset = Dataset(
            name=info.reference,
            digest=info.fingerprint[:36],
            source_type="local",
            source=json.dumps({"uri": info.source}),
            profile=json.dumps({"counts": info.counts, "classes": len(info.classes)}),
        )
        client().log_inputs(self.id, datasets=[DatasetInput(dataset)])

    def log_bytes(self, data: bytes, name: str) -> None:
        """Store data as the artifact file `name`."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            client().log_artifact(self.id, str(path), str(Path(name).parent) if "/" in name else None)

    def log_figure(self, png: bytes, name: str) -> None:
        """Store a picture as the artifact file `name`."""
        self.log_bytes(png, name)
        self._followers.tell(lambda each: each.log_figure(png, name))

    def log_json(self, value: Any, name: str) -> None:
        client().log_dict(self.id, value, name)

    def log_tables(self, tables: dict[str, dict[str, list[Any]]]) -> None:
        """Store tables by file name, as `MlflowClient.log_table` does, which takes pandas: MLflow's page shows them.

        Each is its columns by name, all of the same length.
        """
        for name, columns in tables.items():
            rows = list(zip(*columns.values(), strict=True))
            self.log_json({"columns": list(columns), "data": rows}, name)
        self._tables += [{"path": name, "type": "table"} for name in tables]
        client().set_tag(self.id, "mlflow.loggedArtifacts", json.dumps(self._tables))
        self._followers.tell(lambda each: each.log_tables(tables))

    def log_checkpoint(self, directory: Path, *, logged: Collection[str] = ()) -> str:
        """Copy the checkpoint directory into the run's artifacts, and return its URI.

        logged: the names of files that the artifacts have already, unchanged.
        """
        for path in sorted(directory.iterdir()):
            if path.name not in logged:
                client().log_artifact(self.id, str(path), CHECKPOINT)
        self._followers.tell(lambda each: each.log_checkpoint(directory))
        return f"{client().get_run(self.id).info.artifact_uri}/{CHECKPOINT}"

    def log_directory(self, directory: Path, name: str) -> None:
        """Copy the directory's files to the artifact folder `name`, even of a run that has ended.

        Raises RegistryError where the run or its artifacts cannot be written.
        """
        from mlflow.exceptions import MlflowException

        try:
            client().log_artifacts(self.id, str(directory), name)
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"MLflow did not take {name} of run {self.id}: {str(error).splitlines()[0]}"
            ) from None

    def tag(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            client().set_tag(self.id, key, value)

    def reopen(self) -> frozenset[int]:
        """Let the run go on, and return the epochs that it has logged."""
        client().update_run(self.id, status="RUNNING")
        return frozenset(point.step for point in client().get_metric_history(self.id, "epoch"))

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        try:
            client().set_terminated(self.id, status)
        finally:
            self._followers.tell(lambda each: each.end(status))


def start_child(parent: Run, experiment_name: str, run_name: str, tags: dict[str, str]) -> Run:
    """Return a new run that MLflow shows under `parent`."""
    tags = {**tags, "mlflow.parentRunId": parent.id}
    return Run(client().create_run(experiment(experiment_name), run_name=run_name, tags=tags).info.run_id)


@contextmanager
def run(experiment_name: str, run_name: str, tags: dict[str, str]) -> Iterator[Run]:
    """Yield a new run, which ends as `ending` says."""
    created = client().create_run(experiment(experiment_name), run_name=run_name, tags=tags)
    with ending(Run(created.info.run_id)) as current:
        yield current


@contextmanager
def ending(current: Run) -> Iterator[Run]:
    """End the run as FINISHED, FAILED or KILLED (Ctrl-C), with the reason in the tag `ended`."""
    # MLflow would log a traceback of each error that it also raises, such as a full disk.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    status, reason = "FINISHED", ""
    try:
        yield current
    except KeyboardInterrupt:
        status, reason = "KILLED", "interrupted"
        raise
    except BaseException as error:
        status, reason = "FAILED", f"{type(error).__name__}: {error}"[:500]
        raise
    finally:
        try:
            if reason:
                current.tag({"ended": reason})
            current.end(status)
        except Exception as error:  # a full disk, or no server: the run's own error matters more
            progress.say(f"MLflow was not told that the run is {status}: {reason_of(error)}")


def history(run_id: str) -> list[dict[str, float]]:
    """Return the learning curves of a run: one dict for each epoch, in order, with every metric that was logged at it.

    The figures of the best epoch are logged twice, and count once.
    """
    found = find_run(run_id)
    if found is None:
        raise RegistryError(f"the training run {run_id} is gone")
    epochs: dict[int, dict[str, float]] = {}
    for name in found.data.metrics:
        for point in client().get_metric_history(run_id, name):
            epochs.setdefault(point.step, {})[name] = point.value
    return [epochs[step] for step in sorted(epochs) if "epoch" in epochs[step]]
