"""Model versions and their aliases in MLflow.

    version = resolve("cifar10")          # its champion; also "cifar10@challenger", "cifar10/3"
    directory = checkpoint(version)       # a local checkpoint directory, its SHA-256 verified

The tags of a model version hold its lineage: dataset fingerprint → study → trial → run → checkpoint SHA-256. For this
module, a checkpoint is a directory. The module knows neither Ray nor HTTP. About a network, it only knows its engine.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from raycls import home, progress, tracking
from raycls.errors import RegistryError, UnknownModelError, UsageError
from raycls.models.card import sha256

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

    from raycls.config import Engine

CHAMPION = "champion"
ENGINE, ENGINE_TIMINGS = "engine", "engine_timings"  # tags: the engine that serves a version, and the timings


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of a registered model. uri: the checkpoint directory in MLflow. sha256: the checkpoint's digest."""

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
        """Return `NAME/VERSION`, which `resolve` accepts."""
        return f"{self.name}/{self.version}"

    @property
    def engine(self) -> Engine:
        """Return the engine that serves this version. `choose_engine` chooses it before a promotion. Default: torch."""
        return self.tags.get(ENGINE, "torch")  # type: ignore[return-value]

    @property
    def engine_timings(self) -> list[dict[str, Any]]:
        """Return the timing of each engine: the fields of raycls.engines.choice.Timing. Empty if none was timed."""
        return json.loads(self.tags.get(ENGINE_TIMINGS, "[]"))


def register(
    name: str,
    current: tracking.Run,
    directory: Path,
    *,
    fingerprint: str,
    metrics: dict[str, float],
    lineage: dict[str, str],
) -> ModelVersion:
    """Register the checkpoint directory as the next version of model `name`. Return the version.

    Its tags hold the lineage, the metrics, the dataset's fingerprint and the checkpoint's SHA-256.
    """
    from mlflow.exceptions import MlflowException

    uri = current.log_checkpoint(directory)
    tags = {
        "dataset_fingerprint": fingerprint,
        "checkpoint_sha256": sha256(directory),
        **{f"metric.{key}": repr(float(value)) for key, value in metrics.items()},
        **lineage,
    }
    try:
        tracking.client().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = tracking.client().create_model_version(name, uri, current.id, tags=tags)
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
    """Return the aliases of each version: model name → version → aliases. Versions without alias are left out."""
    table: dict[str, dict[str, tuple[str, ...]]] = {}
    for model in tracking.client().search_registered_models(max_results=1000):
        versions = table.setdefault(model.name, {})
        for alias, number in model.aliases.items():
            versions[str(number)] = (*versions.get(str(number), ()), alias)
    return table


def of_run(run_id: str) -> ModelVersion | None:
    """Return the version that a training run registered, or None."""
    found = tracking.client().search_model_versions(f"run_id = '{run_id}'")
    return _get(found[0].name, str(found[0].version), ()) if found else None


def list_models() -> list[ModelVersion]:
    """Return all versions of all models, by model name and newest first."""
    return [
        _version(found, aliases.get(str(found.version), ()))
        for name, aliases in sorted(_aliases().items())
        for found in sorted(
            tracking.client().search_model_versions(f"name = '{name}'"), key=lambda v: -int(v.version)
        )
    ]


def newest(name: str) -> ModelVersion:
    """Return the version of a model that was registered last. Raises UnknownModelError if there is none."""
    return next((v for v in list_models() if v.name == name), None) or resolve(f"{name}/1")


def resolve(reference: str | None = None) -> ModelVersion:
    """Return the version that a reference names: NAME (its champion), NAME@ALIAS or NAME/VERSION.

    Without a reference, return the champion that was promoted last. Raises UnknownModelError if there is no such
    version. Its message lists the existing ones, or names the command that promotes one.
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
        return _version(tracking.client().get_model_version(name, number), aliases)
    except MlflowException as error:
        if not tracking.is_absence(error):
            reason = tracking.reason_of(error)
            raise RegistryError(f"MLflow does not tell of model {name}, version {number}: {reason}") from None
        known = ", ".join(
            sorted(
                (str(v.version) for v in tracking.client().search_model_versions(f"name = '{name}'")), key=int
            )
        )
        raise UnknownModelError(f"model {name!r} has no version {number}; it has: {known}") from None


def checkpoint(version: ModelVersion) -> Path:
    """Return the checkpoint as a local directory: MLflow's own if it is a local path, else a copy under the home.

    Raises RegistryError if the checkpoint is gone or its SHA-256 has changed. A local path does not need MLflow, so a
    serving replica starts faster.
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

    tracking.client()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        copied = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        if not directory.exists():
            shutil.move(copied, directory)


def choose_engine(version: ModelVersion, images: np.ndarray) -> ModelVersion:
    """Time the engines on this machine, print the result and store the choice with the version. Return the new version.

    images: uint8 N×S×S×3, real images. An engine is chosen only if its answers for them agree with the reference.
    Raises CheckpointError and RegistryError.
    """
    from raycls.engines.choice import choose  # imports PyTorch, which only a promotion needs

    with progress.bar("timing the engines"):
        choice = choose(checkpoint(version), images)
    progress.say(str(choice))
    for tag, value in ((ENGINE, choice.engine), (ENGINE_TIMINGS, json.dumps(choice.as_json()))):
        tracking.client().set_model_version_tag(version.name, version.version, tag, value)
    return resolve(version.reference)


def set_alias(name: str, number: str, alias: str = CHAMPION) -> ModelVersion:
    """Give a version an alias and return the version. The version that had the alias loses it. Nothing is checked.

    A promotion goes through raycls/registry/gate.py, which calls this. Raises UnknownModelError if there is no such
    version, and UsageError if the alias is not allowed.
    """
    if not re.fullmatch(r"[a-zA-Z][\w-]*", alias) or re.fullmatch(r"v\d+", alias) or alias == "latest":
        raise UsageError(f"{alias!r} cannot be an alias: use letters, digits, - and _, like challenger")
    version = resolve(f"{name}/{number}")
    if alias == CHAMPION:  # the date by which `resolve` chooses among the champions of several models
        tracking.client().set_model_version_tag(name, number, "promoted_at", str(time.time()))
    tracking.client().set_registered_model_alias(name, alias, number)
    return resolve(f"{name}/{version.version}")


PROMOTING = "promote.lock"  # a lock: held from the comparison with the champion until the promotion is done


def champion(name: str) -> ModelVersion | None:
    """Return the model's champion, or None."""
    try:
        return resolve(f"{name}@{CHAMPION}")
    except UnknownModelError:
        return None
