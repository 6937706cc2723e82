"""Calls of a server's control plane, with the admin token.

    call("http://127.0.0.1:8000", "POST", "/experiments", {"challenger": "pets/7", "mode": "shadow", "share": 0.2})

The token is RAYCLS_ADMIN_TOKEN, or the one that `raycls up` has written on this machine. It is sent to this machine, or
over https, and nowhere else, unless RAYCLS_UNENCRYPTED=1 says so.
"""

from __future__ import annotations

import os
from typing import Any

from raycls.cluster.environment import ADMIN_TOKEN
from raycls.errors import ClusterError, UsageError
from raycls.serving import auth, tokens
from raycls.serving.client.answers import answered

TIMEOUT_S = 600


def call(
    url: str, method: str, path: str, document: Any = None, *, headers: dict[str, str] | None = None
) -> Any:
    """Send one request and return the JSON of the answer.

    Raises UsageError for what the server finds wrong (400, 404), where there is no token, and where the token would
    travel unencrypted; ClusterError for other answers, or none.
    """
    auth.check_way("the admin token", url)
    endpoint = url.rstrip("/") + path
    sent = {"Authorization": f"Bearer {_token()}", **(headers or {})}
    response, answer = answered(method, endpoint, json=document, headers=sent, timeout=TIMEOUT_S)
    if response.ok:
        return answer
    kind = UsageError if response.status_code in (400, 404) else ClusterError
    raise kind(f"{answer.get('detail') or answer.get('title')} (HTTP {response.status_code})")


def _token() -> str:
    if own := os.environ.get(ADMIN_TOKEN, "").strip():
        return own
    path = tokens.admin_file()
    try:
        return path.read_text().strip()
    except OSError:
        raise UsageError(
            f"there is no admin token: run this where `raycls up` has written {path}, or set {ADMIN_TOKEN}"
        ) from None
