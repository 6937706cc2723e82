"""The address that Serve's HTTP servers listen on, for code that runs on the cluster.

    host()      # "127.0.0.1"
    url()       # "http://127.0.0.1:8000", where the machine itself reaches it

Serve fixes the address when it starts on a cluster, and ignores the address of later configurations. An application has
no public way to learn it, so the patch asks Serve's controller as Serve's own client does. raycls needs it: an
application refuses to be built where other machines reach it without a token. The address in `serve.status()` would
make the patch unnecessary.
"""

from __future__ import annotations

from typing import Any

from raycls.local_http import url_here
from raycls.ray_patches.guard import Patch, usable

PATCH = Patch(
    name="serve_host",
    library="ray",
    version="2.60.0",
    buys="/predict is never open to other machines by accident",
    needed=True,
    targets={
        "ray/serve/context.py::_get_global_client": "94acebeeeaf9bfc0",
        "ray/serve/_private/client.py::ServeControllerClient.http_config": "255f838a849d98cb",
        "ray/serve/_private/controller.py::ServeController.get_http_config": "de58c192ab3193a0",
    },
)


def host() -> str | None:
    """Return the address, or None where no Serve runs. Raises ClusterError where Ray does not match."""
    options = _options()
    return options.host if options else None


def url() -> str | None:
    """Return the URL at which the same machine reaches the HTTP server, or None. Raises as `host`."""
    options = _options()
    return url_here(options.host, options.port) if options else None


def _options() -> Any:
    usable(PATCH)
    import ray

    if not ray.is_initialized():  # Serve's client would start a Ray
        return None
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return client.http_config if client else None
