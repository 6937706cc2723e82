"""A driver on this machine keeps to 127.0.0.1, like the cluster that `raycls up` started there.

Stock Ray replaces 127.0.0.1 by the machine's outward address, and binds its ports to that, unless
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 is set when `ray` is imported. The cluster's own processes get the variable from
raycls/cluster/environment.py. A driver may have imported `ray` before it knows which cluster it joins, so the patch
sets the constant that Ray made of the variable. raycls needs it: without it the driver would listen on other
interfaces. A public setting of `ray.init` would make the patch unnecessary.
"""

from __future__ import annotations

import os

from raycls.ray_patches.guard import Patch, usable

PATCH = Patch(
    name="driver_address",
    library="ray",
    version="2.60.0",
    buys="a driver listens on loopback alone",
    needed=True,
    targets={
        "ray/_private/ray_constants.py::ENABLE_RAY_CLUSTER": "8403484b40335237",
        "ray/_private/services.py::get_node_ip_address": "4f551d998885d18d",
    },
)


def keep_loopback() -> None:
    """Let this process take 127.0.0.1 literally. Raises ClusterError where Ray does not match."""
    usable(PATCH)
    from ray._private import ray_constants

    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported
