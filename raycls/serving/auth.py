"""The bearer token of /predict and /metrics. A client sends the token; a server keeps its digest alone.

    export RAYCLS_TOKEN=$(openssl rand -hex 32)      # where `raycls up` runs, and where its clients run

The digest is an argument of the application, which Ray's dashboard shows. Processes of a Ray that raycls starts do not
have the token in their environment (raycls/cluster/environment.py), where every task and job could read it.
"""

from __future__ import annotations

import hashlib
import os

from raycls.cluster.environment import TOKEN
from raycls.errors import UsageError
from raycls.local_http import is_loopback, may_carry_secret

UNENCRYPTED = "RAYCLS_UNENCRYPTED"  # 1: tokens may travel over http to other machines
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


def headers(url: str) -> dict[str, str]:
    """Return the headers that authenticate this process's requests to a URL; none where it has no token.

    Raises UsageError where the token would travel unencrypted.
    """
    token = own_token()
    if token:
        check_way(TOKEN, url)
    return {"Authorization": f"Bearer {token}"} if token else {}


def check_way(secret: str, url: str) -> None:
    """Raise UsageError where others could read a secret on its way to a URL, and nobody said that they may."""
    if not may_carry_secret(url) and os.environ.get(UNENCRYPTED) != "1":
        raise UsageError(
            f"{secret} would travel unencrypted to {url}: use https; or, on a network that you trust, set "
            f"{UNENCRYPTED}=1"
        )


def digest(token: str) -> str:
    """Return the SHA-256 of a token, 64 hex digits. A random token needs no slower hash: no list holds it."""
    return hashlib.sha256(token.encode()).hexdigest()


def needed(host: str) -> bool:
    """Return whether other machines can reach a server that listens on this host, so that it needs a token."""
    return not is_loopback(host)
