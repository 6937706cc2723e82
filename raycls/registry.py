"""Runs, model versions and aliases: the only module that talks to MLflow.

    version = resolve("cifar10")          # its champion; also "cifar10@challenger", "cifar10/3"
    directory = checkpoint(version)       # a local checkpoint directory, its SHA-256 verified

A model version carries its lineage as tags: dataset fingerprint → study → trial → run → checkpoint SHA-256. Knows
checkpoints as directories and figures as numbers; nothing of Ray, networks or HTTP.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from raycls import home, progress
from raycls.errors import RegistryError, UnknownModelError, UsageError
from raycls.models.checkpoint import sha256

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

CHAMPION = "champion"
CHECKPOINT = "checkpoint"  # the artifact directory of a run


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One registered model: `uri` is where MLflow keeps the checkpoint directory, `sha256` is the checkpoint's."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    uri: str
    sha256: str
    fingerprint: str
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def reference(self) -> str:
        """`NAME/VERSION`, which `resolve` takes back."""
        return f"{self.name}/{self.version}"


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


def find_run(run_id: str) -> MlflowRun | None:
    """The run of this id, if there is one."""
    from mlflow.exceptions import MlflowException

    try:
        return client().get_run(run_id)
    except MlflowException:
        return None


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
    from mlflow.exceptions import MlflowException

    try:
        names = client().get_run(run_id).data.metrics
    except MlflowException as error:
        raise RegistryError(f"the training run {run_id} is gone: {str(error).splitlines()[0]}") from None
    epochs: dict[int, dict[str, float]] = {}
    for name in names:
        for point in client().get_metric_history(run_id, name):
            epochs.setdefault(point.step, {})[name] = point.value
    return [epochs[step] for step in sorted(epochs) if "epoch" in epochs[step]]


def register(
    name: str,
    current: Run,
    directory: Path,
    *,
    fingerprint: str,
    metrics: dict[str, float],
    lineage: dict[str, str],
) -> ModelVersion:
    """Make the checkpoint directory the next version of model `name`, with its lineage as tags."""
    from mlflow.exceptions import MlflowException

    uri = current.log_checkpoint(directory)
    tags = {
        "dataset_fingerprint": fingerprint,
        "checkpoint_sha256": sha256(directory),
        **{f"metric.{key}": repr(float(value)) for key, value in metrics.items()},
        **lineage,
    }
    try:
        client().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client().create_model_version(name, uri, current.id, tags=tags)
    return _version(created, ())


def _version(found: MlflowVersion, aliases: tuple[str, ...]) -> ModelVersion:
    tags = dict(found.tags)
    return ModelVersion(
        name=found.name,
        version=str(found.version),
        aliases=aliases,
        run_id=found.run_id or "",
        uri=found.source or "",
        sha256=tags.get("checkpoint_sha256", ""),
        fingerprint=tags.get("dataset_fingerprint", ""),
        metrics={k.removeprefix("metric."): float(v) for k, v in tags.items() if k.startswith("metric.")},
        tags=tags,
    )


def _aliases() -> dict[str, dict[str, tuple[str, ...]]]:
    """Model name → version → its aliases."""
    table: dict[str, dict[str, tuple[str, ...]]] = {}
    for model in client().search_registered_models(max_results=1000):
        versions = table.setdefault(model.name, {})
        for alias, number in model.aliases.items():
            versions[str(number)] = (*versions.get(str(number), ()), alias)
    return table


def of_run(run_id: str) -> ModelVersion | None:
    """The version that a training run registered, if it came to that."""
    found = client().search_model_versions(f"run_id = '{run_id}'")
    return _get(found[0].name, str(found[0].version), ()) if found else None


def list_models() -> list[ModelVersion]:
    """Every version of every model, newest first within a model."""
    return [
        _version(found, aliases.get(str(found.version), ()))
        for name, aliases in sorted(_aliases().items())
        for found in sorted(client().search_model_versions(f"name = '{name}'"), key=lambda v: -int(v.version))
    ]


def resolve(reference: str | None = None) -> ModelVersion:
    """The version that NAME (its champion), NAME@ALIAS or NAME/VERSION means; None: the champion promoted last.

    Raises UnknownModelError that names what exists, or the command that makes a champion.
    """
    table = _aliases()
    if reference is None:
        champions = [
            _get(name, number, aliases)
            for name, versions in table.items()
            for number, aliases in versions.items()
            if CHAMPION in aliases
        ]
        if not champions:
            raise UnknownModelError(
                "no model is champion yet: make one with `raycls tune cifar10`, or with `raycls train cifar10` "
                "and `raycls promote cifar10 1`"
            )
        return max(champions, key=lambda v: float(v.tags.get("promoted_at", 0)))
    match = re.fullmatch(r"(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?", reference)
    if not match:
        raise UnknownModelError(
            f"{reference!r} is no model reference: write NAME, NAME@ALIAS or NAME/VERSION"
        )
    name, alias, number = match["name"], match["alias"], match["version"]
    if name not in table:
        known = ", ".join(sorted(table)) or "none yet; `raycls train DATASET` registers one"
        raise UnknownModelError(f"unknown model {name!r}; the models are: {known}")
    if number is None:
        alias = alias or CHAMPION
        number = next((n for n, aliases in table[name].items() if alias in aliases), None)
        if number is None:
            raise UnknownModelError(
                f"model {name!r} has no {alias}: choose a version with `raycls models`, then "
                f"`raycls promote {name} VERSION`" + (f" --alias {alias}" if alias != CHAMPION else "")
            )
    return _get(name, number, table[name].get(number, ()))


def _get(name: str, number: str, aliases: tuple[str, ...]) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return _version(client().get_model_version(name, number), aliases)
    except MlflowException:
        known = ", ".join(
            sorted((str(v.version) for v in client().search_model_versions(f"name = '{name}'")), key=int)
        )
        raise UnknownModelError(f"model {name!r} has no version {number}; it has: {known}") from None


def checkpoint(version: ModelVersion) -> Path:
    """The checkpoint as a local directory: MLflow's own where it is a local path, else a copy under the home.

    Raises RegistryError when it is gone or its SHA-256 is not the registered one. Needs no MLflow for a local path,
    so that a serving replica starts seconds sooner.
    """
    parsed = urlparse(version.uri)
    if parsed.scheme in ("", "file"):
        directory = Path(url2pathname(parsed.path))
        if not directory.is_dir():
            raise RegistryError(f"the checkpoint of {version.reference} is gone: {directory}")
    else:
        directory = home.home() / "cache" / version.sha256
        if not directory.is_dir():
            _download(version.uri, directory)
    if sha256(directory) != version.sha256:
        raise RegistryError(
            f"the checkpoint of {version.reference} was changed after it was registered: {directory}; "
            "train it again, or promote another version"
        )
    return directory


def _download(uri: str, directory: Path) -> None:
    import tempfile

    import mlflow.artifacts

    client()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        copied = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        if not directory.exists():
            shutil.move(copied, directory)


def promote(name: str, number: str, alias: str = CHAMPION) -> ModelVersion:
    """Give a version an alias, taking it from whichever had it. Raises UnknownModelError, UsageError."""
    if not re.fullmatch(r"[a-zA-Z][\w-]*", alias) or re.fullmatch(r"v\d+", alias) or alias == "latest":
        raise UsageError(f"{alias!r} cannot be an alias: use letters, digits, - and _, like challenger")
    version = resolve(f"{name}/{number}")
    client().set_model_version_tag(name, number, "promoted_at", str(time.time()))
    client().set_registered_model_alias(name, alias, number)
    return resolve(f"{name}/{version.version}")


def promote_if_better(version: ModelVersion, metric: str) -> bool:
    """Make the version champion where the present one is absent, of other data, or lower in `metric`; say which."""
    try:
        champion = resolve(f"{version.name}@{CHAMPION}")
    except UnknownModelError:
        champion = None
    if champion and champion.reference == version.reference:
        return True
    mine = version.metrics[metric]
    if champion is None:
        progress.say(f"{version.reference} is the first champion: {metric} {mine:.4f}")
    elif champion.fingerprint != version.fingerprint:
        progress.say(
            f"{version.reference} replaces champion {champion.reference}, which was trained on other data"
        )
    elif mine > champion.metrics[metric]:
        progress.say(
            f"{version.reference} replaces champion {champion.reference}: "
            f"{metric} {mine:.4f} against {champion.metrics[metric]:.4f}"
        )
    else:
        progress.say(
            f"{champion.reference} stays champion: {metric} {champion.metrics[metric]:.4f}, "
            f"{version.reference} has {mine:.4f}"
        )
        return False
    promote(version.name, version.version)
    return True
