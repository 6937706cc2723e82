"""Experiments and runs in MLflow: what trainings and studies write while they go on, and read when they are resumed.

    with run("cifar10", "quick-1", tags={}) as current:
        current.log_params({"lr": 0.24}); current.log_metrics({"val_accuracy": 0.9}, step=1)
    find_runs("cifar10", "tags.kind = 'study'")

Model versions are raycls/registry.py's.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycls import home, progress
from raycls.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.exceptions import MlflowException

CHECKPOINT = "checkpoint"  # the artifact directory of a run


@cache
def _client(tracking_uri: str) -> MlflowClient:
    new = tracking_uri.startswith("sqlite:///") and not Path(tracking_uri.removeprefix("sqlite:///")).exists()
    if new:
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with progress.bar("creating the MLflow database" if new else "opening MLflow"):
        import requests
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        # A server's runs are named on stdout when they end, which is for results; files get a bar of their own.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        try:
            if tracking_uri.startswith(("http://", "https://")):
                # MLflow itself tries for four minutes before it says that nobody is there.
                requests.head(tracking_uri, timeout=10)
            client.search_experiments(max_results=1)
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"MLflow does not answer at {tracking_uri}: {str(error).splitlines()[0]}; "
                "check MLFLOW_TRACKING_URI, or unset it for a database under RAYCLS_HOME"
            ) from None
    return client


def client() -> MlflowClient:
    """The client of `$MLFLOW_TRACKING_URI`, or of a SQLite file under the home, made on first use."""
    uri = home.tracking_uri()
    found = _client(uri)
    import mlflow

    if mlflow.get_tracking_uri() != uri:
        # MLflow reaches artifacts through its global setting, whatever the client was given. It also writes that
        # setting into the environment, where it would outlive a change of RAYCLS_HOME.
        stated = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri)
        if stated is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
    return found


def experiment(name: str) -> str:
    """The id of the experiment called name, made where it is missing, with its artifacts under the home when local."""
    found = client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    local = home.tracking_uri().startswith("sqlite:///")
    location = (home.home() / "artifacts" / name).as_uri() if local else None
    return client().create_experiment(name, artifact_location=location)


def find_runs(experiment_name: str, condition: str) -> list[MlflowRun]:
    """The experiment's runs that meet the condition (MLflow's search syntax), the latest first."""
    found: list[MlflowRun] = []
    where = client().get_experiment_by_name(experiment_name)
    token: str | None = "" if where else None
    while where and token is not None:
        page = client().search_runs([where.experiment_id], condition, page_token=token or None)
        found += page
        token = page.token or None
    return found


def is_absence(error: MlflowException) -> bool:
    """Whether MLflow says that there is no such thing, or never was such an id; else it could not say."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def find_run(run_id: str) -> MlflowRun | None:
    """The run of this id, if there is one. Raises RegistryError where MLflow cannot say."""
    from mlflow.exceptions import MlflowException

    try:
        return client().get_run(run_id)
    except MlflowException as error:
        if is_absence(error):
            return None
        raise RegistryError(f"MLflow does not tell of run {run_id}: {reason_of(error)}") from None


class Run:
    """One MLflow run that is being written."""

    def __init__(self, run_id: str):
        self.id = run_id

    def log_params(self, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        client().log_batch(self.id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        client().log_batch(self.id, metrics=[Metric(k, float(v), now, step) for k, v in metrics.items()])

    def log_bytes(self, data: bytes, name: str) -> None:
        """Keep data as the artifact file `name`."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            client().log_artifact(self.id, str(path), str(Path(name).parent) if "/" in name else None)

    def log_json(self, value: Any, name: str) -> None:
        client().log_dict(self.id, value, name)

    def log_checkpoint(self, directory: Path) -> str:
        """Copy the checkpoint directory into the run's artifacts; its URI."""
        client().log_artifacts(self.id, str(directory), CHECKPOINT)
        return f"{client().get_run(self.id).info.artifact_uri}/{CHECKPOINT}"

    def log_directory(self, directory: Path, name: str) -> None:
        """Copy what is in the directory to the artifact folder `name`, also of a run that has ended.

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


@contextmanager
def run(experiment_name: str, run_name: str, tags: dict[str, str]) -> Iterator[Run]:
    """A new run, which ends as `ending` says."""
    created = client().create_run(experiment(experiment_name), run_name=run_name, tags=tags)
    with ending(Run(created.info.run_id)) as current:
        yield current


@contextmanager
def ending(current: Run) -> Iterator[Run]:
    """End the run as FINISHED, FAILED or KILLED (Ctrl-C), with the reason in the tag `ended`."""
    # It logs a traceback of what it raises anyway, such as a database on a full disk.
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
            client().set_terminated(current.id, status)
        except Exception as error:  # a full disk, or a server that is gone: the run's own error matters more
            progress.say(f"MLflow was not told that the run is {status}: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """The line of an error of MLflow's that says most: beneath SQLAlchemy's own words, the database's."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "OperationalError" in line), lines[0])


def history(run_id: str) -> list[dict[str, float]]:
    """The learning curves of a run: one dict per epoch, in order, with every metric that was logged at it.

    What was logged twice for an epoch (the kept one's figures are repeated at the end) counts once.
    """
    found = find_run(run_id)
    if found is None:
        raise RegistryError(f"the training run {run_id} is gone")
    epochs: dict[int, dict[str, float]] = {}
    for name in found.data.metrics:
        for point in client().get_metric_history(run_id, name):
            epochs.setdefault(point.step, {})[name] = point.value
    return [epochs[step] for step in sorted(epochs) if "epoch" in epochs[step]]
