"""The application of the console: the third one that serve_config.yaml names.

    raycls up         # then http://127.0.0.1:8000/console

It is one process, which no prediction waits for.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from starlette.applications import Starlette

from raycls.cluster.environment import give_way_here
from raycls.config import validated
from raycls.errors import RayclsError
from raycls.ray_patches import serve_host
from raycls.serving.settings import ConsoleConfig


def build(args: dict[str, Any]) -> Application:
    """Return the application for `args`, the fields of raycls.serving.settings.ConsoleConfig.

    Raises RayServeException, with one line, for a wrong setting.
    """
    try:
        config = validated(ConsoleConfig, args)
        if config.server is None:
            config = config.model_copy(update={"server": serve_host.url()})
        host = serve_host.host()
    except RayclsError as error:
        raise RayServeException(f"raycls: {error}") from None
    return Console.bind(config, host)  # type: ignore[attr-defined]


@serve.deployment
@serve.ingress()
class Console:
    """The process. Ray asks it for its routes when it starts."""

    def __init__(self, config: ConsoleConfig, host: str | None):
        give_way_here()  # threads that begin later have the same priority
        self._config, self._host = config, host

    def __serve_build_asgi_app__(self) -> Starlette:
        from raycls.console.application import application

        return application(self._config, host=self._host)
