"""Register model versions in MLflow, find them by reference, and give them aliases.

    version = resolve("cifar10")          # its champion; also "cifar10@challenger", "cifar10/3"

For this module, a checkpoint is a directory. The module knows neither Ray nor HTTP. About a network, it only knows its
engine. raycls/registry/listing.py makes lists.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from pathlib import Path

from raycls import tracking
from raycls.errors import UnknownModelError, UsageError
from raycls.models.card import sha256
from raycls.registry.listing import OWN, aliases_of_all, is_foreign, overview, unknown
from raycls.registry.model_version import (
    LONGEST_NAME,
    PROMOTED_AT,
    SHA256,
    ModelVersion,
    is_name,
    is_own,
    of_mlflow,
)

CHAMPION, LATEST = "champion", "latest"  # LATEST: what MLflow calls the newest version, promoted or not
CHALLENGER = "challenger"  # a version that may replace the champion
PROMOTING = "promote.lock"  # a lock: held from the comparison with the champion until the promotion is done


def check_name(name: str) -> str:
    """Return the name of a model. Raises UsageError for one that cannot be registered, before it is trained.

    One of another program in the same MLflow cannot be.
    """
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot name a model: use letters, digits, and - _ . between them, at most {LONGEST_NAME}"
        )
    if is_foreign(name):
        raise UsageError(
            f"another program has registered models called {name} in this MLflow: choose another name with --model"
        )
    return name


def register(
    name: str,
    current: tracking.Run,
    directory: Path,
    *,
    fingerprint: str,
    metrics: dict[str, float],
    lineage: dict[str, str],
    logged: Collection[str] = (),
) -> ModelVersion:
    """Register the checkpoint directory as the next version of model `name`. Return the version.

    logged: see `tracking.Run.log_checkpoint`.

    Its tags hold the lineage, the metrics, the dataset's fingerprint and the checkpoint's SHA-256. Raises UsageError
    for a name that `check_name` refuses.
    """
    from mlflow.exceptions import MlflowException

    from raycls.registry import mlflow_model

    check_name(name)  # another program may have taken it since
    uri = current.log_checkpoint(directory, logged=logged)
    current.log_bytes(
        mlflow_model.description(current.id).encode(), f"{tracking.CHECKPOINT}/{mlflow_model.FILE}"
    )
    tags = {
        "dataset_fingerprint": fingerprint,
        SHA256: sha256(directory),
        **{f"metric.{key}": repr(float(value)) for key, value in metrics.items()},
        **lineage,
    }
    try:
        tracking.client().create_registered_model(name, tags={OWN: "model"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = tracking.client().create_model_version(name, uri, current.id, tags=tags)
    return of_mlflow(created, ())


def of_run(run_id: str) -> ModelVersion | None:
    """Return the version that a training run registered, or None."""
    found = filter(is_own, tracking.client().search_model_versions(f"run_id = '{run_id}'"))
    first = next(found, None)
    return _get(first.name, str(first.version)) if first else None


def of_study(name: str, trial: int) -> ModelVersion | None:
    """Return the newest version that was registered of a study's trial, as of its winner, or None."""
    with tracking.answering(f"the versions of study {name}"):
        found = tracking.client().search_model_versions(f"tags.study = '{name}' and tags.trial = '{trial}'")
    own = sorted(filter(is_own, found), key=lambda each: each.creation_timestamp)
    return _get(own[-1].name, str(own[-1].version)) if own else None


def resolve(reference: str | None = None) -> ModelVersion:
    """Return the version that a reference names: NAME (its champion), NAME@ALIAS or NAME/VERSION.

    Without a reference, return the champion that was promoted last. Raises UnknownModelError if there is no such
    version, or if another program registered it. Its message lists the existing ones, or names the command that
    promotes one.
    """
    if reference is None:
        champions = [
            _get(name, number)
            for name, versions in aliases_of_all().items()
            for number, aliases in versions.items()
            if CHAMPION in aliases
        ]
        if not champions:
            raise UnknownModelError(f"no model is champion yet: {_way_to_a_champion()}")
        return max(champions, key=lambda v: float(v.tags.get(PROMOTED_AT, 0)))
    match = re.fullmatch(r"(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]{1,9}))?", reference)
    if not match or match["alias"] == LATEST:
        raise UnknownModelError(
            f"{reference!r} is no model reference: write NAME, NAME@ALIAS or NAME/VERSION"
        )
    name, alias, number = match["name"], match["alias"] or CHAMPION, match["version"]
    if not is_name(name):
        raise unknown(name)
    return _get(name, number) if number else _by_alias(name, alias)


def _way_to_a_champion() -> str:
    from raycls.data.versions import list_datasets

    trained = overview(1)
    if trained:
        return f"promote a version, for example with `raycls promote {trained[0].name} {trained[0].version}`"
    prepared = [info.name for info in list_datasets()]
    name = "cifar10" if "cifar10" in prepared or not prepared else prepared[0]
    return f"make one with `raycls tune {name}`, or with `raycls train {name}` and `raycls promote {name} 1`"


def _get(name: str, number: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        with tracking.answering(f"model {name}, version {number}"):
            found = tracking.client().get_model_version(name, number)
    except MlflowException:
        known = sorted(
            (str(v.version) for v in tracking.client().search_model_versions(f"name = '{name}'")), key=int
        )
        if not known:
            raise unknown(name) from None
        raise UnknownModelError(
            f"model {name!r} has no version {number}; it has: {', '.join(known)}"
        ) from None
    if not is_own(found):
        raise UnknownModelError(
            f"raycls did not register {name}/{number}: `raycls models` lists those that it did"
        )
    return of_mlflow(found, tuple(found.aliases))


def _by_alias(name: str, alias: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        with tracking.answering(f"model {name}, {alias}"):
            found = tracking.client().get_model_version_by_alias(name, alias)
    except MlflowException:
        if name not in aliases_of_all():
            raise unknown(name) from None
        raise UnknownModelError(
            f"model {name!r} has no {alias}: choose a version with `raycls models`, then "
            + (
                f"`raycls promote {name} VERSION --alias {alias}`"
                if alias != CHAMPION
                else f"`raycls promote {name} VERSION`; or name a version, like {name}/1"
            )
        ) from None
    return _get(name, str(found.version))


def set_alias(name: str, number: str, alias: str = CHAMPION) -> ModelVersion:
    """Give a version an alias and return the version. The version that had the alias loses it, and a new champion is no
    challenger any more. Nothing is checked.

    A promotion goes through raycls/registry/gate.py, which calls this. Raises UnknownModelError if there is no such
    version, and UsageError if the alias is not allowed.
    """
    if not re.fullmatch(r"[a-zA-Z][\w-]*", alias) or re.fullmatch(r"v\d+", alias) or alias == LATEST:
        raise UsageError(f"{alias!r} cannot be an alias: use letters, digits, - and _, like challenger")
    version = resolve(f"{name}/{number}")
    if alias == CHAMPION:  # the date by which `resolve` chooses among the champions of several models
        tracking.client().set_model_version_tag(name, number, PROMOTED_AT, str(time.time()))
    tracking.client().set_registered_model_alias(name, alias, number)
    if alias == CHAMPION and CHALLENGER in version.aliases:
        tracking.client().delete_registered_model_alias(name, CHALLENGER)
    return resolve(f"{name}/{version.version}")


def champion(name: str) -> ModelVersion | None:
    """Return the model's champion, or None."""
    try:
        return resolve(f"{name}@{CHAMPION}")
    except UnknownModelError:
        return None
