"""The application of the control plane: the second one that serve_config.yaml names.

    serve run serve_config.yaml

It is one process, which no prediction waits for. Behind HAProxy its routes have the names of the table in
raycls/control_plane/application.py, like /uploads; behind Ray's own proxy they are below /control.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from starlette.applications import Starlette

from raycls.cluster.environment import give_way_here
from raycls.config import validated
from raycls.errors import RayclsError
from raycls.ray_patches import serve_host
from raycls.serving.settings import ControlPlaneConfig


def build(args: dict[str, Any]) -> Application:
    """Return the application for `args`, the fields of raycls.serving.settings.ControlPlaneConfig.

    Raises RayServeException, with one line, for a wrong setting.
    """
    try:
        config = validated(ControlPlaneConfig, args)
        host = serve_host.host()
    except RayclsError as error:
        raise RayServeException(f"raycls: {error}") from None
    return ControlPlane.bind(config, host)  # type: ignore[attr-defined]


@serve.deployment
@serve.ingress()
class ControlPlane:
    """The process. Ray asks it for its routes when it starts."""

    def __init__(self, config: ControlPlaneConfig, host: str | None):
        from raycls.control_plane.capture_watch import CaptureWatch
        from raycls.control_plane.drift_watch import DriftWatch
        from raycls.control_plane.experiment_watch import ExperimentWatch
        from raycls.control_plane.parcels import Checks
        from raycls.control_plane.promotion_watch import PromotionWatch
        from raycls.control_plane.retrain_watch import RetrainWatch
        from raycls.control_plane.traffic import LastHour
        from raycls.control_plane.trigger_watch import TriggerWatch

        give_way_here()  # threads that begin later have the same priority
        self._config, self._host, self._hour = config, host, LastHour()
        self._checks = Checks(config.max_upload_bytes)
        loops = (
            ExperimentWatch(),
            RetrainWatch(),
            PromotionWatch(config.watch_s),
            DriftWatch(config.drift_images),
            CaptureWatch(),
            TriggerWatch(),
            self._hour,
            self._checks,
        )
        self._loops = [asyncio.create_task(loop.run()) for loop in loops]

    def __serve_build_asgi_app__(self) -> Starlette:
        from raycls.control_plane.application import application
        from raycls.control_plane.work import Work, in_a_task

        return application(
            self._config, self._host, hour=self._hour, checks=self._checks, work=Work(in_a_task)
        )
