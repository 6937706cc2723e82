"""Model versions and their aliases in MLflow.

    version = resolve("cifar10")          # its champion; also "cifar10@challenger", "cifar10/3"
    versions, more = page_of("cifar10", 50)

The tags of a model version hold its lineage: dataset fingerprint → study → trial → run → checkpoint SHA-256. For this
module, a checkpoint is a directory. The module knows neither Ray nor HTTP. About a network, it only knows its engine.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycls import tracking
from raycls.errors import RegistryError, UnknownModelError, UsageError
from raycls.models.card import sha256

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.store.entities import PagedList

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


def page_of(name: str, count: int, page: int = 1) -> tuple[list[ModelVersion], bool]:
    """Return a page of `count` versions of a model, the newest first, and whether there are older ones.

    Raises UnknownModelError.
    """
    aliases = _aliases()
    if name not in aliases:
        raise _unknown(name, aliases)
    token: str | None = None
    for _ in range(page - 1):
        token = _search(name, count, token).token
        if not token:
            return [], False
    found = _search(name, count, token)
    return [_version(each, aliases[name].get(str(each.version), ())) for each in found], bool(found.token)


def _search(name: str, count: int, token: str | None) -> PagedList[MlflowVersion]:
    return tracking.client().search_model_versions(
        f"name = '{name}'", max_results=count, order_by=["version_number DESC"], page_token=token
    )


def overview(count: int) -> list[ModelVersion]:
    """Return the newest `count` versions of each model, and those with an alias; by name, the newest first."""
    found = []
    for name, aliases in sorted(_aliases().items()):
        listed = (_version(each, aliases.get(str(each.version), ())) for each in _search(name, count, None))
        versions = {version.version: version for version in listed}
        for number in aliases.keys() - versions:
            versions[number] = _get(name, number, aliases[number])
        found += [versions[number] for number in sorted(versions, key=int, reverse=True)]
    return found


def newest(name: str) -> ModelVersion:
    """Return the version of a model that was registered last. Raises UnknownModelError if there is none."""
    versions, _ = page_of(name, 1)
    return versions[0] if versions else resolve(f"{name}/1")


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
        raise _unknown(name, table)
    if number is None:
        alias = alias or CHAMPION
        number = next((n for n, aliases in table[name].items() if alias in aliases), None)
        if number is None:
            raise UnknownModelError(
                f"model {name!r} has no {alias}: choose a version with `raycls models`, then "
                f"`raycls promote {name} VERSION`" + (f" --alias {alias}" if alias != CHAMPION else "")
            )
    return _get(name, number, table[name].get(number, ()))


def _unknown(name: str, table: Iterable[str]) -> UnknownModelError:
    known = ", ".join(sorted(table)) or "none yet; `raycls train DATASET` registers one"
    return UnknownModelError(f"unknown model {name!r}; the models are: {known}")


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
