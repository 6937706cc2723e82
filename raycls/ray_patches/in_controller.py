"""The patches of Serve's controller, which Ray calls there by the name of a function.

RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH=raycls.ray_patches.in_controller:install
"""

from __future__ import annotations

from raycls.ray_patches import haproxy_template, keep_routes


def install() -> None:
    """Patch this process, which is Serve's controller."""
    keep_routes.keep()
    haproxy_template.install()
