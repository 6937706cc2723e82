"""The cluster that this process is part of: the address of its dashboard, and whether it serves.

own_dashboard()          # "http://10.0.0.4:8265", None outside of a cluster
"""

from __future__ import annotations

import sys

import requests

from raycls import local_http
from raycls.cluster import lifecycle


def is_private() -> bool:
    """Return whether this process's Ray is its own and ends with it, so that no other node can be part of it."""
    return lifecycle.PRIVATE.is_set()


def own_dashboard() -> str | None:
    """Return the address; None for a process that is not connected to Ray, or whose Ray is its own and ends with it.

    Such a Ray has no dashboard, and tells an address at which another cluster may answer. `RAY_API_SERVER_ADDRESS`
    decides where it is set, as for `ray job submit`.
    """
    if "ray" not in sys.modules:
        return None
    import ray
    from ray.job_submission import JobSubmissionClient

    if not ray.is_initialized() or is_private():
        return None
    try:
        address: str = JobSubmissionClient(ray.get_runtime_context().gcs_address).get_address()
    except (ConnectionError, RuntimeError, ValueError, requests.RequestException, ray.exceptions.RayError):
        return None
    local_http.exempt(address)
    return address


def serves_here() -> bool:
    """Return whether Ray Serve runs applications in the cluster that this process is part of."""
    if "ray" not in sys.modules:
        return False
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    if not ray.is_initialized() or is_private():
        return False
    try:
        return bool(serve.status().applications)
    except (RayServeException, ray.exceptions.RayError):
        return False
