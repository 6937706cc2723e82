"""The named tokens of a server. A server follows their list, so that none of these functions needs a restart.

secret = tokens.add("ci", ("contribute",))      # shown once; the server keeps its digest alone
tokens.revoke("ci")
tokens.ensure_admin()                           # what `raycls up` does: a token in a file of mode 0600
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from raycls import home
from raycls.config import validated
from raycls.errors import ClusterError, UsageError
from raycls.serving import auth, state
from raycls.serving.state import Role, ServingState, Token

ADMIN = "admin"  # the name of the token that `raycls up` makes


def add(name: str, roles: Sequence[Role]) -> str:
    """Make a token and return it: 64 hex digits. Raises UsageError for a name that is taken or not allowed."""
    secret = secrets.token_hex(32)
    token = _token(name, roles, secret)

    def added(now: ServingState) -> ServingState:
        if any(known.name == name for known in now.tokens):
            raise UsageError(f"there is a token called {name} already: revoke it, or choose another name")
        return now.model_copy(update={"tokens": (*now.tokens, token)})

    state.change(added)
    return secret


def revoke(name: str) -> None:
    """Remove a token: within seconds, no server takes it any more. Raises UsageError where there is none."""

    def removed(now: ServingState) -> ServingState:
        kept = tuple(token for token in now.tokens if token.name != name)
        if len(kept) == len(now.tokens):
            known = ", ".join(token.name for token in now.tokens) or "none"
            raise UsageError(f"there is no token called {name!r}; the tokens are: {known}")
        return now.model_copy(update={"tokens": kept})

    state.change(removed)


def admin_file() -> Path:
    """Return the file with this machine's admin token."""
    return home.home() / "admin_token"


def ensure_admin() -> Path:
    """Make an admin token where this machine has none that the server knows; return its file, which its owner reads.

    Raises ClusterError where the file cannot be written.
    """
    path = admin_file()
    try:
        secret = path.read_text().strip()
    except OSError:
        secret = ""
    digest = auth.digest(secret)
    if secret and any(token.sha256 == digest for token in state.load().tokens):
        return path
    secret = secrets.token_hex(32)
    token = _token(ADMIN, ("admin",), secret)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret + "\n")
    except OSError as error:
        raise ClusterError(f"cannot write the admin token to {path}: {error.strerror}") from None

    def replaced(now: ServingState) -> ServingState:
        others = tuple(known for known in now.tokens if known.name != ADMIN)
        return now.model_copy(update={"tokens": (*others, token)})

    state.change(replaced)
    return path


def _token(name: str, roles: Sequence[Role], secret: str) -> Token:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    values = {
        "name": name,
        "roles": tuple(dict.fromkeys(roles)),
        "sha256": auth.digest(secret),
        "created": created,
    }
    return validated(Token, values)
