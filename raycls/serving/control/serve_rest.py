"""Serve's REST interface: what a cluster serves, and what it shall serve.

    serve = find()                              # of `raycls up`, or of the cluster that this process is part of
    serve = find("http://127.0.0.1:8265")       # of any cluster, by its dashboard
    serve.served().model                        # "pets/3"
    serve.put(document.content)

https://docs.ray.io/en/latest/serve/api/index.html#serve-rest-api. Only `raycls up` makes clusters on this machine; the
others may be on Kubernetes, or started by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

from raycls import cluster, local_http
from raycls.cluster.environment import token
from raycls.errors import ClusterError, ConfigError
from raycls.serving import auth
from raycls.serving.control.configuration import (
    CHALLENGERS,
    CONSOLE_PATH,
    CONTROL_PATH,
    IMPORT_PATH,
    ServeConfiguration,
)

OWN_PATHS = (IMPORT_PATH, CONTROL_PATH, CONSOLE_PATH)  # of the applications that raycls deploys


@dataclass(frozen=True)
class Serve:
    """Serve of one cluster. dashboard: its address. here: whether this machine is what serves. log: Ray's, a path."""

    dashboard: str
    here: bool = False
    log: str = ""

    def details(self) -> dict[str, Any]:
        """Return what Serve says about itself. Raises ClusterError where it does not answer."""
        found: dict[str, Any] = self._ask("GET").json()
        return found

    def put(self, content: dict[str, Any]) -> None:
        """Have it serve these applications. Raises ClusterError with its reason where it refuses."""
        self._ask("PUT", content)

    def served(self) -> ServeConfiguration | None:
        """Return what it serves, or None.

        Raises ClusterError where it serves an application that raycls did not deploy: an update would stop that.
        """
        found = self.details()
        configs = [
            app.get("deployed_app_config")
            for name, app in found["applications"].items()
            if not name.startswith(CHALLENGERS)  # which the control plane deploys by itself
        ]
        if not configs:
            return None
        if not all(config and config.get("import_path") in OWN_PATHS for config in configs):
            raise ClusterError(
                f"the cluster serves {', '.join(found['applications'])}, which raycls did not deploy: it would be "
                "stopped"
            )
        content = {key: found[key] for key in ("proxy_location", "http_options") if found.get(key)}
        try:
            return ServeConfiguration(content | {"applications": configs})
        except ConfigError as error:
            raise ClusterError(f"the cluster serves what raycls did not deploy: {error}") from None

    def answering(self, document: ServeConfiguration) -> str | None:
        """Return NAME/VERSION that the nodes' servers answer with, "" where they wait for a champion.

        None where no server can be asked, as from another machine. document: what is served.
        """
        nodes = [proxy["node_ip"] for proxy in self.details().get("proxies", {}).values()]
        for host in [document.host] if local_http.is_loopback(document.host) else nodes:
            try:
                url = local_http.url_here(host, document.port)
                answer = local_http.request("GET", f"{url}/health", timeout=5)
                model = answer.json()["model"] if answer.ok else None
            except (requests.RequestException, ValueError, KeyError, TypeError):
                continue
            if model:
                return f"{model['name']}/{model['version']}"
            if answer.status_code == 503:
                return ""
        return None

    def _ask(self, method: str, content: dict[str, Any] | None = None) -> requests.Response:
        try:
            headers = {"Authorization": f"Bearer {token()}"}
        except ClusterError:  # the cluster may ask for none
            headers = {}
        address = f"{self.dashboard.rstrip('/')}/api/serve/applications/"
        try:
            response = local_http.request(method, address, json=content, headers=headers, timeout=60)
        except requests.RequestException as error:
            raise ClusterError(f"Ray's dashboard does not answer at {self.dashboard}: {error}") from None
        if not response.ok:
            raise ClusterError(f"Serve refused ({response.status_code}): {reason(response.text)}")
        return response


def own_serve() -> Serve | None:
    """Return Serve of `raycls up` on this machine, or None."""
    running = cluster.status()
    return Serve(running.dashboard, here=True, log=str(running.log)) if running else None


def find(address: str | None = None) -> Serve | None:
    """Return Serve of the cluster whose dashboard has this address.

    None: of `raycls up` on this machine, else of the cluster that this process is part of, else None. Raises UsageError
    where Ray's token would travel unencrypted to the address, and ClusterError where that cluster serves and its
    dashboard does not answer.
    """
    if address:
        auth.check_way("Ray's token", address)
        return Serve(address)
    if found := own_serve():
        return found
    dashboard = cluster.own_dashboard()
    if dashboard is None and cluster.serves_here():
        raise ClusterError(
            "Ray's dashboard does not answer this process, so that what is served cannot change: run this on Ray's "
            "head, or set RAY_API_SERVER_ADDRESS"
        )
    return Serve(dashboard) if dashboard else None


def reason(message: str) -> str:
    """Return the line of Serve's message that says what happened: the last line of a traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""
