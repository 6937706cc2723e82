"""Who is signed in: the person's own token, in a cookie that only this console can read.

    session = Sessions(key).start(token, "ada", ("admin",))
    text = Sessions(key).sealed(session)            # for the cookie
    Sessions(key).opened(text)                      # the session, or None where it is old, changed or another console's

The console keeps no list of sessions, so that a restart signs nobody out. The cookie is encrypted and signed (Fernet,
https://github.com/fernet/spec). A token that was revoked ends at the server: every call carries the token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from dataclasses import asdict, dataclass

from cryptography.fernet import Fernet, InvalidToken

COOKIE = "raycls_session"
LASTS_S = 12 * 3600


@dataclass(frozen=True)
class Session:
    """token: what the server is asked with. csrf: what every form and script of this session sends back."""

    token: str
    name: str
    roles: tuple[str, ...]
    csrf: str

    def may(self, role: str) -> bool:
        """Return whether the token has the role. An admin has every role."""
        return role in self.roles or "admin" in self.roles


class Sessions:
    """Seals and opens sessions. key: a secret of any length; consoles with the same key know the same sessions."""

    def __init__(self, key: str):
        digest = hashlib.sha256(b"raycls console " + key.encode()).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(digest))

    def start(self, token: str, name: str, roles: tuple[str, ...]) -> Session:
        """Return a new session."""
        return Session(token, name, roles, csrf=secrets.token_urlsafe(24))

    def sealed(self, session: Session) -> str:
        """Return the text of the session's cookie."""
        return self._fernet.encrypt(json.dumps(asdict(session)).encode()).decode()

    def opened(self, text: str) -> Session | None:
        """Return the session of a cookie that this console has made in the last LASTS_S seconds, or None."""
        try:
            found = json.loads(self._fernet.decrypt(text.encode(), ttl=LASTS_S))
            return Session(found["token"], found["name"], tuple(found["roles"]), found["csrf"])
        except (InvalidToken, ValueError, KeyError, TypeError):
            return None


@dataclass
class Attempts:
    """Counts sign-ins that failed. At most `most` in `seconds`; a token of 64 random digits needs no more."""

    most: int = 30
    seconds: float = 60.0
    failed: tuple[float, ...] = ()

    def too_many(self) -> bool:
        now = time.monotonic()
        self.failed = tuple(moment for moment in self.failed if now - moment < self.seconds)
        return len(self.failed) >= self.most

    def add(self) -> None:
        self.failed = (*self.failed, time.monotonic())
