"""Make a version champion, and serve it where a cluster serves that model: by promotion, or by going back.

promoted = promote("cifar10", "3")          # raises RefusedError; the former champion then still answers
restored = rollback("cifar10")              # the former champion again, without a comparison
reject(restored, rejection)                 # the thresholds below which answers are rejected

raycls/registry/gate.py decides about a promotion. Both are recorded in the history of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from raycls import home, progress, registry
from raycls.engines.rejection import Rejection
from raycls.errors import ClusterError, RayclsError, RefusedError, UnknownModelError, UsageError
from raycls.registry import CHAMPION, ModelVersion, gate, history
from raycls.registry.policy import PromotionPolicy
from raycls.serving.control import deploy, serve_rest
from raycls.serving.control.configuration import ServeConfiguration

BUSY = "another promotion or rollback is running: wait for it"


def promote(
    name: str,
    number: str,
    *,
    policy: PromotionPolicy = PromotionPolicy(),
    new_classes: bool = False,
    force: str | None = None,
    by: str | None = None,
    wait: bool = False,
    address: str | None = None,
) -> ModelVersion:
    """Make the version champion if it passes the gate, and serve it where the running cluster serves this model.

    No request is lost. For the arguments see `raycls.registry.gate.admit`. wait: for another promotion that runs, in
    place of an error. address: of the dashboard of a cluster; default: see `raycls.serving.control.serve_rest.find`.
    Raises RefusedError for a version that is not fit, not better, or that the cluster could not serve,
    UnknownModelError, RegistryError, and ClusterError while another promotion runs.
    """
    with home.lock(registry.PROMOTING, BUSY, wait=wait):
        version = registry.resolve(f"{name}/{number}")
        admitted = gate.admit(version, policy, new_classes=new_classes, force=force, by=by)
        if admitted.champion and (former := admitted.champion.rejection) and not admitted.version.rejection:
            progress.say(
                f"{admitted.champion.reference} rejects answers, and {version.reference} rejects none: "
                f"`raycls reject {version.reference} --precision {former.precision:g}` sets a threshold"
            )
        own = admitted.version.rejection
        if own and own.engine != admitted.version.engine:
            progress.say(
                f"the threshold of {version.reference} was found with engine {own.engine}, and "
                f"{admitted.version.engine} serves it: `raycls reject {version.reference} --precision {own.precision:g}"
                f"{' --by-class' if own.by_class else ''}` finds it again"
            )
        try:
            with gate.recorded(admitted), _served(admitted.version, address):
                return registry.set_alias(name, version.version)
        except RefusedError as error:
            history.record_refusal(
                version,
                admitted.champion,
                by=by,
                reason=str(error),
                policy=policy,
                comparison=admitted.comparison,
            )
            raise


def rollback(
    name: str, *, reason: str = "", by: str | None = None, address: str | None = None
) -> ModelVersion:
    """Make the former champion champion again, and serve it where the running cluster serves this model.

    It is the latest one in the history that still exists. There is no comparison. Raises UsageError if there is none,
    and otherwise as `promote`.
    """
    with home.lock(registry.PROMOTING, BUSY):
        current = registry.resolve(f"{name}@{CHAMPION}")
        version = _former(name, current)
        with history.recorded("rollback", version, current, by=by, reason=reason), _served(version, address):
            return registry.set_alias(name, version.version)


def reject(version: ModelVersion, rejection: Rejection | None, *, address: str | None = None) -> bool:
    """Store a version's thresholds, or remove them, and serve it with them where the cluster serves this version.

    Return whether one does. Its replicas are replaced without losing a request. For address and for the errors raised
    see `promote`; after an error the version has its former thresholds.
    """
    with home.lock(registry.PROMOTING, BUSY):
        serve = serve_rest.find(address)
        document = serve.served() if serve else None
        models = document.models if document else ()
        names = [each.name for each in models if _serves(serve, each, address, version)]
        if address and not names:
            raise ClusterError(f"the cluster at {address} does not serve {version.reference}")
        if serve is None or document is None or not names:
            registry.set_rejection(version, rejection)
            return False
        try:
            deploy.update(serve, dict.fromkeys(names, registry.set_rejection(version, rejection)))
        except BaseException:  # also Ctrl-C
            registry.set_rejection(version, version.rejection)
            progress.say(_serve_again(serve, document, dict.fromkeys(names, version.reference)))
            raise
        return True


def _serves(
    serve: serve_rest.Serve | None, document: ServeConfiguration, address: str | None, version: ModelVersion
) -> bool:
    model = _model_of(serve, document, address)
    if not model or re.split("[/@]", model)[0] != version.name:
        return False
    return registry.resolve(model).reference == version.reference


def _former(name: str, current: ModelVersion) -> ModelVersion:
    for number in history.former_champions(history.events(name), current.version):
        try:
            return registry.resolve(f"{name}/{number}")
        except UnknownModelError:
            progress.say(f"{name}/{number} was champion and is deleted")
    raise UsageError(
        f"the history of {name} has no former champion: choose a version with `raycls models`, then "
        f"`raycls promote {name} VERSION --force --reason TEXT`"
    )


@contextmanager
def _served(version: ModelVersion, address: str | None) -> Iterator[None]:
    """Serve the version where the cluster serves its model, or waits for a first champion.

    If the body raises, serve the former one again.
    """
    serve = serve_rest.find(address)
    document = serve.served() if serve else None
    former: dict[str, str] = {}  # what each application serves
    unknown: list[str] = []
    for each in document.models if document else ():
        found = _model_of(serve, each, address)
        if found is None:
            unknown.append(each.name)
        else:
            former[each.name] = found
    fitting = [name for name, model in former.items() if model.partition("/")[0] == version.name]
    fitting = fitting or [name for name, model in former.items() if not model]
    if unknown and not fitting:
        raise ClusterError(
            f"it is not known which model {unknown[0]} serves: name it in its args, as model: NAME"
        )
    if address and not fitting:
        serves = ", ".join(former.values()) or "nothing"
        raise ClusterError(f"the cluster at {address} serves {serves}, and no version of {version.name}")
    if serve is None or document is None or not fitting:
        yield
        return
    try:
        deploy.update(serve, dict.fromkeys(fitting, version))
        yield
    except BaseException as error:  # also Ctrl-C: the served version and the champion stay the same
        again = _serve_again(serve, document, {name: former[name] for name in fitting})
        if isinstance(error, RayclsError):
            raise RefusedError(f"{version.reference} was not taken up, and {again}: {error}") from error
        progress.say(again)
        raise


def _model_of(
    serve: serve_rest.Serve | None, document: ServeConfiguration, address: str | None
) -> str | None:
    """Return the reference of what is served; "" for an application that waits for a champion; None: unknown."""
    if document.model:
        return document.model
    # It was deployed with the champion of that time. From another machine, the nodes' servers may not be reached.
    answering = serve.answering(document) if serve and not address else None
    if answering is not None:
        return answering
    if len(document.models) > 1:  # the latest champion may be that of another application
        return None
    try:
        return registry.resolve().reference
    except UnknownModelError:
        return ""


def _serve_again(serve: serve_rest.Serve, document: ServeConfiguration, former: Mapping[str, str]) -> str:
    """Serve what was served before, and say so. former: NAME/VERSION by application, empty text for no model."""
    references = {name: reference for name, reference in former.items() if reference}
    said = ", ".join(dict.fromkeys(references.values()))
    try:
        if not references:
            serve.put(document.content)
            return "no model is served, as before"
        versions = {name: registry.resolve(reference) for name, reference in references.items()}
        deploy.update(serve, versions, document)
    except RayclsError as error:
        return f"{said or 'what was there'} cannot be served again either ({error})"
    return f"{said} is served as before"
