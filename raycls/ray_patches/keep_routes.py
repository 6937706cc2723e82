"""Serve's controller goes on sending requests to the replicas while the next version of the application is built.

    RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH=raycls.ray_patches.keep_routes:keep   # raycls/cluster/environment.py sets it

An update imports the application anew, in a task of some seconds. Ray 2.60 forgets for that time which deployment takes
requests, and HAProxy has no server left but Ray's own proxy: on two cores, beside the build, 250 requests/s are too
many for that.
"""

from __future__ import annotations

import functools
from typing import Any

from ray.serve._private.application_state import ApplicationState


def keep() -> None:
    """For Ray, which calls it in its controller. Raises AttributeError for a Ray that is made otherwise."""
    forget = ApplicationState._clear_target_state_and_store_config

    @functools.wraps(forget)
    def forget_all_else(self: ApplicationState, *config: Any, **named: Any) -> None:
        ingress = self._ingress_deployment_name
        forget(self, *config, **named)
        self._ingress_deployment_name = ingress

    ApplicationState._clear_target_state_and_store_config = forget_all_else  # type: ignore[method-assign]
