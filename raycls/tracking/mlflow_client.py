"""MLflow's client, its experiments and its errors.

    client().search_experiments()
    find_runs("cifar10", "tags.kind = 'study'")

This room and raycls/registry/ are the only ones that import mlflow.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from raycls import home, local_http, progress
from raycls.data.files import without_password
from raycls.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.exceptions import MlflowException


@cache
def _client(tracking_uri: str) -> MlflowClient:
    new = tracking_uri.startswith("sqlite:///") and not Path(tracking_uri.removeprefix("sqlite:///")).exists()
    if new:
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with progress.bar("creating the MLflow database" if new else "opening MLflow"):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        # MLflow would print the URLs of runs on stdout, which is for results, and draw progress bars of its own.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        try:
            if tracking_uri.startswith(("http://", "https://")):
                local_http.exempt(tracking_uri)
                # MLflow itself retries for four minutes before it reports an error.
                local_http.request("HEAD", tracking_uri, timeout=10)
            client.search_experiments(max_results=1)
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"MLflow does not answer at {tracking_uri}: {str(error).splitlines()[0]}; "
                "check MLFLOW_TRACKING_URI, or unset it for a database under RAYCLS_HOME"
            ) from None
    return client


def client() -> MlflowClient:
    """Return the client of `$MLFLOW_TRACKING_URI`, or of a SQLite file under the home. Raises RegistryError."""
    uri = home.tracking_uri()
    found = _client(uri)
    import mlflow

    if mlflow.get_tracking_uri() != uri:
        # MLflow reads artifacts through its global setting, not through the client. It also writes the setting into the
        # environment, where it would outlive a change of RAYCLS_HOME.
        stated = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri)
        if stated is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
    return found


def experiment(name: str) -> str:
    """Return the id of the experiment, made where it is missing. A local one keeps its artifacts under the home."""
    found = client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    local = home.tracking_uri().startswith("sqlite:///")
    location = (home.home() / "artifacts" / name).as_uri() if local else None
    return client().create_experiment(name, artifact_location=location)


def find_runs(experiment_name: str, condition: str) -> list[MlflowRun]:
    """Return the experiment's runs that meet the condition (MLflow's search syntax), the latest first."""
    found: list[MlflowRun] = []
    where = client().get_experiment_by_name(experiment_name)
    token: str | None = "" if where else None
    while where and token is not None:
        page = client().search_runs([where.experiment_id], condition, page_token=token or None)
        found += page
        token = page.token or None
    return found


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Raise RegistryError in place of MLflow's error, unless that says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if is_absence(error):
            raise
        raise RegistryError(f"MLflow does not tell of {what}: {reason_of(error)}") from None


def page_of(run: MlflowRun) -> str:
    """Return the URL of MLflow's page about a run; where MLflow is a file of this machine, the command that shows it.

    Both are without the name and the password that the address may hold.
    """
    uri = home.tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return f"mlflow ui --backend-store-uri {without_password(uri)}"
    where = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return f"{without_password(uri).rstrip('/')}/{where}"


def is_absence(error: MlflowException) -> bool:
    """Return whether the error means that there is no such thing; otherwise MLflow could not answer."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def find_run(run_id: str) -> MlflowRun | None:
    """Return the run of this id, or None. Raises RegistryError where MLflow cannot answer."""
    from mlflow.exceptions import MlflowException

    try:
        return client().get_run(run_id)
    except MlflowException as error:
        if is_absence(error):
            return None
        raise RegistryError(f"MLflow does not tell of run {run_id}: {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """Return the line of MLflow's error that says most: the database's own line, where there is one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "OperationalError" in line), lines[0])
