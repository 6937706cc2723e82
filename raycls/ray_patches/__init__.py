"""Everything that relies on a private name of Ray, uvicorn or starlette: one file for each patch.

    for patch in patches():
        print(patch.name, *guard.state(patch))

Each file says what the library does by itself, what the patch does, what it buys, and what would make it unnecessary.
raycls/ray_patches/guard.py decides whether a patch acts. `raycls doctor` lists them all with their state.
"""

from __future__ import annotations

from raycls.ray_patches.guard import Patch


def patches() -> list[Patch]:
    """Return every patch."""
    from raycls.ray_patches import (
        client_connection,
        direct_predict,
        driver_address,
        driver_token,
        haproxy_rules,
        haproxy_template,
        joined_answer,
        keep_routes,
        serve_host,
        train_processes,
    )

    modules = (
        direct_predict,
        joined_answer,
        client_connection,
        keep_routes,
        haproxy_rules,
        haproxy_template,
        train_processes,
        driver_address,
        driver_token,
        serve_host,
    )
    return [module.PATCH for module in modules]
