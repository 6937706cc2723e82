"""The models of raycls in MLflow, and lists of their versions.

    versions, more = page_of("cifar10", 50)
    newest("cifar10").reference

Other programs may use the same MLflow. A model of raycls has the tag OWN, so that theirs are neither listed nor served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from raycls import home, tracking
from raycls.errors import UnknownModelError
from raycls.registry.model_version import ModelVersion, is_name, is_own, of_mlflow

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.store.entities import PagedList

OWN = "raycls"  # the tag of a registered model
PAGE, ALL = 1000, 200_000  # models and versions: the most that MLflow lists at a time

Aliases = dict[str, tuple[str, ...]]  # by version


def aliases_of_all() -> dict[str, Aliases]:
    """Return the aliases of each model of raycls, by name. Versions without alias are left out.

    All functions here raise RegistryError where MLflow cannot answer.
    """
    _adopt_once()
    return {model.name: _aliases(model) for model in _own_models()}


def _aliases(model: RegisteredModel) -> Aliases:
    found: Aliases = {}
    for alias, number in model.aliases.items():
        found[str(number)] = (*found.get(str(number), ()), alias)
    return found


def _own_models() -> Iterator[RegisteredModel]:
    """Yield the models of raycls, by name. In the home's own database, those without the tag get it here."""
    local = home.tracking_uri().startswith("sqlite:")
    for model in _models(None if local else f"tags.{OWN} = 'model'"):
        if OWN in model.tags or _adopted(model):
            yield model


def _models(condition: str | None) -> Iterator[RegisteredModel]:
    token: str | None = ""
    while token is not None:
        with tracking.answering("models"):
            page = tracking.client().search_registered_models(
                condition, max_results=PAGE, page_token=token or None
            )
        yield from page
        token = page.token or None


def _adopt_once() -> None:
    """Give the tag to the models that an older raycls registered on a server: once from each home.

    Every time would be too often, because the server may have thousands of others, and each is looked into.
    """
    uri = home.tracking_uri()
    done = home.home() / "cache" / f"adopted-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    if uri.startswith("sqlite:") or done.exists():
        return
    for model in _models(None):
        if OWN not in model.tags:
            _adopted(model)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()


def _adopted(model: RegisteredModel) -> bool:
    """Return whether raycls registered the newest version of a model. If so, give the model the tag."""
    newest = _search(model.name, 1, None) if is_name(model.name) else []
    own = bool(newest) and is_own(newest[0])
    if own:
        with tracking.answering(f"model {model.name}"):
            tracking.client().set_registered_model_tag(model.name, OWN, "model")
    return own


def is_foreign(name: str) -> bool:
    """Return whether another program has a model of this name."""
    model = _model(name)
    return model is not None and OWN not in model.tags and not _adopted(model)


def _model(name: str) -> RegisteredModel | None:
    from mlflow.exceptions import MlflowException

    try:
        with tracking.answering(f"model {name}"):
            return tracking.client().get_registered_model(name)
    except MlflowException:  # there is none
        return None


def _search(name: str, count: int, token: str | None) -> PagedList[MlflowVersion]:
    with tracking.answering(f"the versions of {name}"):
        return tracking.client().search_model_versions(
            f"name = '{name}'", max_results=count, order_by=["version_number DESC"], page_token=token
        )


def list_models() -> list[ModelVersion]:
    """Return all versions of all models, by model name and newest first."""
    return [version for name in sorted(aliases_of_all()) for version in page_of(name, ALL)[0]]


def page_of(name: str, count: int, page: int = 1) -> tuple[list[ModelVersion], bool]:
    """Return a page of `count` versions of a model, the newest first, and whether there are older ones.

    Raises UnknownModelError.
    """
    model = _model(name)
    if model is None or (OWN not in model.tags and not _adopted(model)):
        raise unknown(name)
    token: str | None = None
    for _ in range(page - 1):
        token = _search(name, count, token).token
        if not token:
            return [], False
    found, aliases = _search(name, count, token), _aliases(model)
    versions = [of_mlflow(each, aliases.get(str(each.version), ())) for each in found if is_own(each)]
    return versions, bool(found.token)


def overview(count: int) -> list[ModelVersion]:
    """Return the newest `count` versions of each model, and those with an alias; by name, the newest first."""
    found = []
    for name, aliases in sorted(aliases_of_all().items()):
        listed = (each for each in _search(name, count, None) if is_own(each))
        versions = {str(each.version): of_mlflow(each, aliases.get(str(each.version), ())) for each in listed}
        for number in aliases.keys() - versions:
            with tracking.answering(f"{name}/{number}"):
                other = tracking.client().get_model_version(name, number)
            if is_own(other):
                versions[number] = of_mlflow(other, aliases[number])
        found += [versions[number] for number in sorted(versions, key=int, reverse=True)]
    return found


def newest(name: str) -> ModelVersion:
    """Return the version of a model that was registered last. Raises UnknownModelError if there is none."""
    versions, _ = page_of(name, 1)
    if not versions:
        raise UnknownModelError(f"model {name!r} has no version yet")
    return versions[0]


def unknown(name: str) -> UnknownModelError:
    """Return the error about a model that does not exist, or is none of raycls."""
    known = ", ".join(sorted(aliases_of_all())) or "none yet; `raycls train DATASET` registers one"
    return UnknownModelError(f"unknown model {name!r}; the models are: {known}")
