"""Who is signed in: the person's own token, in a cookie that only this console can read.

    sessions = Sessions(key, "http://127.0.0.1:8000")
    session = sessions.start(token, "ada", ("admin",))
    text = sessions.sealed(session)     # for the cookie sessions.cookie
    sessions.opened(text)               # the session, or None where it is old, changed, or one with another server

The console keeps no list of sessions, so that a restart signs nobody out. The cookie is encrypted and signed (Fernet,
https://github.com/fernet/spec). A token that was revoked ends at the server: every call carries the token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass

from cryptography.fernet import Fernet, InvalidToken

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
    """Seals and opens sessions with one server. key: a secret of any length; server: its URL.

    Consoles with the same key know the same sessions. Browsers send a cookie to every port of a host, so that each
    server has a cookie of its own name, and a token never reaches another server.
    """

    def __init__(self, key: str, server: str):
        digest = hashlib.sha256(f"raycls console {server} {key}".encode()).digest()
        self.cookie = f"raycls_session_{hashlib.sha256(server.encode()).hexdigest()[:8]}"
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
