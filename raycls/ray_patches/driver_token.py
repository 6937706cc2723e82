"""A driver sends Ray's token to clusters that ask for one, and only to these.

Stock Ray reads RAY_AUTH_MODE once, when `ray` is imported. A driver learns which cluster it joins later, and whether
that cluster asks for a token. The patch has Ray read the environment again. raycls needs it: without it a driver is
refused, or a cluster without tokens takes the driver for dead. A public argument of `ray.init` would make the patch
unnecessary.
"""

from __future__ import annotations

import os

from raycls.ray_patches.guard import Patch, usable

PATCH = Patch(
    name="driver_token",
    library="ray",
    version="2.60.0",
    buys="one driver process can join clusters with and without a token",
    needed=True,
)


def authenticate(*, with_token: bool) -> None:
    """Set whether this process authenticates with its token. Raises ClusterError where Ray does not match."""
    usable(PATCH)
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ["RAY_AUTH_MODE"] = "token" if with_token else "disabled"
    Config.initialize("")  # reads the environment again
