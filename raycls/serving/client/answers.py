"""One request to a server of raycls, and the JSON document that it answers.

response, document = answered("GET", "http://127.0.0.1:8000/models", headers=headers, timeout=60)
"""

from __future__ import annotations

from typing import Any

import requests

from raycls import local_http
from raycls.errors import ClusterError


def answered(method: str, endpoint: str, **options: Any) -> tuple[requests.Response, Any]:
    """Send a request; `options` are those of requests.request. Return the response, whatever its status, and its JSON.

    Raises ClusterError where no server answers, or one that sends no JSON.
    """
    try:
        response = local_http.request(method, endpoint, **options)
    except requests.RequestException as error:
        raise ClusterError(
            f"no server answers at {endpoint} ({type(error).__name__}): start one with `raycls up`"
        ) from None
    try:
        return response, response.json()
    except ValueError:
        raise ClusterError(
            f"{endpoint} answered {response.status_code} without a JSON document: is a raycls server there?"
        ) from None
