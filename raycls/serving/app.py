"""The application that serve_config.yaml names: a classifier bound to one model version.

    serve run serve_config.yaml

`build` asks the registry once, unless the arguments say what it would answer. A replica that autoscaling adds later
serves the version of the other replicas, even if another version has become champion. Ray runs `build` in a task of the
cluster: RAYCLS_HOME and MLFLOW_TRACKING_URI must be set where Ray was started.
"""

from __future__ import annotations

import logging
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from starlette.requests import Request
from starlette.responses import Response

from raycls import registry
from raycls.config import validated
from raycls.errors import RayclsError, UnknownModelError, UsageError
from raycls.ray_patches import serve_host
from raycls.serving import auth, state
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.settings import ServingConfig


def build(args: dict[str, Any]) -> Application:
    """Return the application for `args`, the fields of raycls.serving.settings.ServingConfig.

    Without a champion, the application answers 503 and says how to make one. Raises RayServeException with one line
    for a setting or a model that does not exist: Serve shows this message as it is, and other exceptions as tracebacks.
    """
    config = None
    try:
        config = validated(ServingConfig, args)
        host = serve_host.host()
        state.ensure_signing_key()
        check_exposure(config, host)
        version = config.version or registry.resolve(config.model)
        # A missing or damaged checkpoint and a wrong engine are reported now, and not in each replica's log.
        registry.check_engine(version, registry.checkpoint(version), config.engine)
    except UnknownModelError as error:
        if config and config.model is None:
            return NoModel.bind(str(error))  # type: ignore[attr-defined]
        raise RayServeException(f"raycls: {error}") from None
    except RayclsError as error:
        raise RayServeException(f"raycls: {error}") from None
    from raycls.serving.replica.classifier import Classifier

    # Replicas get the version beside the configuration, and need it once.
    config = config.model_copy(update={"version": None})
    return Classifier.bind(config, version, host)  # type: ignore[attr-defined]


def check_exposure(config: ServingConfig, host: str | None) -> None:
    """Raise UsageError where other machines reach `host` and nothing says who may ask. None: the host is unknown."""
    if config.token_sha256 or config.no_auth or (host is not None and not auth.needed(host)):
        return
    if state.load().has("predict"):
        return
    raise UsageError(
        f"other machines reach {host or 'this server'}, and the application asks for no token: add a token with "
        f'`raycls tokens add NAME --role predict`, or token_sha256 (printf %s "${auth.TOKEN}" | sha256sum) or '
        "no_auth: true to its args"
    )


@serve.deployment(name="Classifier")  # the name that serve_config.yaml's settings are for
class NoModel:
    """Answers 503 in place of the classifier, until there is a champion and the application is deployed again."""

    def __init__(self, reason: str):
        self.problem = HTTPProblem(503, reason)
        logging.getLogger("ray.serve").error(f"{reason}; then serve again")

    async def __call__(self, request: Request) -> Response:
        return self.problem.response(request.headers)

    async def nothing(self, *_: Any) -> None:
        """Answer the control plane, which asks the replicas of a model every few seconds."""

    served = version_counts = traffic = experiment_counts = drift_sums = captured = nothing
