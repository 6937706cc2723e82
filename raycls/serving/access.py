"""Who may do what: the role that a request's token has, the host that it names, and the page that it comes from.

    access = Access(Follower(), host="127.0.0.1", token_sha256=config.token_sha256)
    access.check_host(request.headers)
    access.check_role(request.headers, "predict")       # raises HTTPProblem 401 or 403
    access.check_origin(request.headers)                # where the request changes something

`Host` is checked so that no web page reaches a server on loopback under a name of its own (DNS rebinding). `Origin` is
checked so that no web page presses a button of a server that its reader can reach
(https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html).
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from raycls.serving import auth
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.state import Follower, Role

REMEMBERED_HOSTS = 64  # values of `Host` that were found good
OPEN = "anonymous"  # the name of a client that needs no token


class Access:
    """The rules of one process of a server.

    host: the address that the server listens on; None: it is not known. token_sha256: the digest of RAYCLS_TOKEN, which
    has the role `predict`. no_auth: /predict asks nobody for a token. allowed_hosts: names by which clients reach the
    server, beside the usual ones; "*" is every name.
    """

    def __init__(
        self,
        follower: Follower,
        *,
        host: str | None,
        token_sha256: str | None = None,
        no_auth: bool = False,
        allowed_hosts: Collection[str] = (),
    ):
        self._follower, self._token_sha256, self._no_auth = follower, token_sha256, no_auth
        self._exposed = host is None or auth.needed(host)
        self._host, self._allowed = host, {name.lower() for name in allowed_hosts}
        self._good_hosts: set[str] = set()

    def refresh(self) -> None:
        """Read the tokens again where they have changed. It may take a request to a bucket."""
        self._follower.look()

    def check_role(self, headers: Mapping[str, str], role: Role) -> str:
        """Return the name of the token that the headers carry, or "anonymous" where `predict` is open.

        Raises HTTPProblem: 401 without a known token, 403 where its roles are others, or where no token has the role.
        """
        now = self._follower.now
        if role == "predict":
            if self._no_auth or not (self._token_sha256 or self._exposed or now.has(role)):
                return OPEN
        elif not now.has(role):
            raise HTTPProblem(
                403, f"no token has the role {role}: `raycls tokens add NAME --role {role}` makes one"
            )
        token = f"${auth.TOKEN}" if role == "predict" else "TOKEN"
        name, roles = self.known(
            headers, f"send a token of the server that has the role {role}: Authorization: Bearer {token}"
        )
        if role in roles or "admin" in roles:
            return name
        raise HTTPProblem(403, f"the token {name} has the role {', '.join(roles)}, and this needs {role}")

    def known(
        self, headers: Mapping[str, str], otherwise: str = "send a token of the server"
    ) -> tuple[str, tuple[Role, ...]]:
        """Return name and roles of the token that the headers carry. Raises HTTPProblem 401, which says `otherwise`."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        given = auth.digest(secret.strip()) if scheme.lower() == "bearer" else ""
        if self._token_sha256 and hmac.compare_digest(given, self._token_sha256):
            return auth.TOKEN, ("predict",)
        # Comparing digests takes no time that would help to guess a token.
        for token in self._follower.now.tokens:
            if token.sha256 == given:
                return token.name, token.roles
        raise HTTPProblem(401, otherwise, {"WWW-Authenticate": "Bearer"})

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Raise HTTPProblem 421 where the client reached this server by a name that is not the server's."""
        given = headers.get("host", "")
        if given in self._good_hosts:
            return
        name = _name_of(given)
        if not (name and self._is_own(name)):
            detail = f"this server is not called {given[:80]!r}: add the name to allowed_hosts in its configuration"
            raise HTTPProblem(421, detail)
        if len(self._good_hosts) < REMEMBERED_HOSTS:
            self._good_hosts.add(given)

    def _is_own(self, name: str) -> bool:
        if "*" in self._allowed or name in self._allowed or name == self._host:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            own = socket.gethostname().lower()
            return name == "localhost" or (self._exposed and name in (own, own.partition(".")[0]))
        # An address cannot be made to lead somewhere else, as a name can.
        return self._exposed or address.is_loopback

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Raise HTTPProblem 403 for a request that a page of another site made."""
        if not self.is_own_page(headers):
            raise HTTPProblem(403, "a page of another site may not change anything here")

    @staticmethod
    def is_own_page(headers: Mapping[str, str]) -> bool:
        """Return whether a program made the request, which sends no `Origin`, or a page of this server."""
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        own = origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
        return own and site in ("same-origin", "none")


def _name_of(host: str) -> str:
    """Return the name or address in a `Host` header, in lower case and without port; "" where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".") if not set(host) & set("/?#@\\") else ""
    except ValueError:
        return ""
