"""The bearer token of /predict and /metrics. A client sends the token; a server keeps its digest alone.

    export RAYCLS_TOKEN=$(openssl rand -hex 32)      # where `raycls up` runs, and where its clients run

The digest is an argument of the application, which Ray's dashboard shows.
"""

from __future__ import annotations

import hashlib
import os

from raycls.errors import UsageError
from raycls.local_http import is_loopback

TOKEN = "RAYCLS_TOKEN"
SHORTEST = 16  # characters: a shorter token can be guessed


def own_token() -> str | None:
    """Return this process's token, or None. Raises UsageError for one that is short or that no header can carry."""
    token = os.environ.get(TOKEN, "").strip()
    if token and len(token) < SHORTEST:
        raise UsageError(
            f"{TOKEN} has {len(token)} characters, fewer than {SHORTEST}: set {TOKEN}=$(openssl rand -hex 32)"
        )
    if not (token.isascii() and all(33 <= ord(character) < 127 for character in token)):
        raise UsageError(
            f"{TOKEN} holds characters that no HTTP header carries: use ASCII letters and digits"
        )
    return token or None


def headers() -> dict[str, str]:
    """Return the headers that authenticate this process's requests."""
    token = own_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def digest(token: str) -> str:
    """Return the SHA-256 of a token, 64 hex digits. A random token needs no slower hash: no list holds it."""
    return hashlib.sha256(token.encode()).hexdigest()


def needed(host: str) -> bool:
    """Return whether other machines can reach a server that listens on this host, so that it needs a token."""
    return not is_loopback(host)
