"""Who may ask: the bearer token of /predict and /metrics, of which a server keeps the digest alone.

    export RAYCLS_TOKEN=$(openssl rand -hex 32)      # where `raycls up` runs, and where its clients do

The digest is among the application's arguments, which Ray's dashboard shows; the token itself is nowhere but with those
who were given it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping

from raycls.errors import UsageError
from raycls.serving.replica.request import HTTPProblem

TOKEN = "RAYCLS_TOKEN"
SHORTEST = 16  # characters; what is shorter can be guessed


def own_token() -> str | None:
    """This process's token, None where it has none. Raises UsageError for one that is easily guessed or mistaken."""
    token = os.environ.get(TOKEN, "").strip()
    if token and len(token) < SHORTEST:
        raise UsageError(
            f"{TOKEN} has {len(token)} characters, fewer than {SHORTEST}: {TOKEN}=$(openssl rand -hex 32)"
        )
    if not (token.isascii() and all(33 <= ord(character) < 127 for character in token)):
        raise UsageError(f"{TOKEN} holds what an HTTP header does not carry: take ASCII letters and digits")
    return token or None


def headers() -> dict[str, str]:
    """What a client of this process sends with its requests."""
    token = own_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def digest(token: str) -> str:
    """SHA-256, hexadecimal. Enough for a random token, which no list of passwords holds."""
    return hashlib.sha256(token.encode()).hexdigest()


def check(given: Mapping[str, str], expected: str | None) -> None:
    """Raise HTTPProblem 401 unless these request headers bear the token with that digest, or none is expected."""
    if expected is None:
        return
    scheme, _, token = given.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(digest(token.strip()), expected):
        wanted = f"send the server's token: Authorization: Bearer ${TOKEN}"
        raise HTTPProblem(401, wanted, {"WWW-Authenticate": "Bearer"})


def needed(host: str) -> bool:
    """Whether others than this machine can reach a server on this host."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
