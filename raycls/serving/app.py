"""The application that serve_config.yaml names: a classifier bound to one model version.

    serve run serve_config.yaml

The registry is asked once, here. A replica that autoscaling adds later serves the version its siblings serve, even if
another has been promoted since. Runs in a Ray task of the cluster, in its environment: RAYCLS_HOME and
MLFLOW_TRACKING_URI must be set where Ray was started.
"""

from __future__ import annotations

from typing import Any

from ray.serve import Application
from ray.serve.exceptions import RayServeException

from raycls import registry
from raycls.config import ServingConfig, validated
from raycls.errors import RayclsError


def build(args: dict[str, Any]) -> Application:
    """The application for `args`, the fields of raycls.config.ServingConfig.

    Raises RayServeException with one line where there is no such model or setting: Serve shows its message as it is,
    and any other exception as a traceback.
    """
    try:
        config = validated(ServingConfig, args)
        version = registry.resolve(config.model)
        registry.checkpoint(version)  # absent or damaged: say so now, not in each replica's log
    except RayclsError as error:
        raise RayServeException(f"raycls: {error}") from None
    from raycls.serving.classifier import Classifier

    return Classifier.bind(config, version)  # type: ignore[attr-defined]
