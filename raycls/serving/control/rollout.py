"""Make a version champion: check it first, then serve it where a cluster serves that model.

promoted = promote("cifar10", "3")          # raises RefusedError; the former champion then still answers
"""

from __future__ import annotations

from raycls import cluster, home, progress, registry
from raycls.errors import RayclsError, RefusedError
from raycls.registry import ModelVersion
from raycls.registry.checks import examine
from raycls.serving.control import deploy


def promote(name: str, number: str, *, new_classes: bool = False) -> ModelVersion:
    """Make the version champion, and serve it where the running cluster serves this model. No request is lost.

    new_classes: accept other classes than the champion's. Raises RefusedError for a version that is not fit or that the
    cluster could not serve, UnknownModelError, RegistryError, and ClusterError while another promotion runs.
    """
    with home.lock(registry.PROMOTING, "another `raycls promote` is running: wait for it"):
        return _promote(name, number, new_classes)


def _promote(name: str, number: str, new_classes: bool) -> ModelVersion:
    version = registry.resolve(f"{name}/{number}")
    version = examine(version, None if new_classes else registry.champion(name))
    running = cluster.status()
    document = deploy.served(running) if running else None
    served = (document.model or "") if document else ""
    if running is None or served.partition("/")[0] != name:
        return registry.promote(name, number)
    try:
        deploy.update(running, version)
        return registry.promote(name, number)
    except BaseException as error:  # also Ctrl-C: the served version and the champion stay the same
        again = _serve_again(running, served)
        if isinstance(error, RayclsError):
            raise RefusedError(f"{version.reference} was not taken up, and {again}: {error}") from error
        progress.say(again)
        raise


def _serve_again(running: cluster.Cluster, reference: str) -> str:
    try:
        deploy.update(running, registry.resolve(reference))
    except RayclsError as error:
        return f"{reference} cannot be served again either ({error})"
    return f"{reference} is served as before"
