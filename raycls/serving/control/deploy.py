"""Deploy the application of a ServeConfiguration on a cluster; `raycls up` and `raycls down`.

    document = ServeConfiguration.read(Path("serve_config.yaml"))
    served = up(document, detach=True)               # Ray, ingress and application; served.url answers
    url = deploy(document.pinned(replicas=2))        # the application alone, on the running cluster
    down()

The configuration goes to Ray's dashboard through Serve's REST interface, with the model's version and the token's
digest in it. Knows nothing of what the application does with a request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import requests

from raycls import cluster, local_http, progress, registry
from raycls.cluster.environment import port_in_use, token
from raycls.errors import ClusterError, ConfigError
from raycls.serving import tokens
from raycls.serving.control.configuration import (
    CHALLENGERS,
    CONSOLE_PATH,
    CONTROL_PATH,
    DEPLOYMENT,
    IMPORT_PATH,
    ServeConfiguration,
)

DEPLOY_TIMEOUT_S = 180

OWN_PATHS = (IMPORT_PATH, CONTROL_PATH, CONSOLE_PATH)  # of the applications that raycls deploys


@dataclass(frozen=True, kw_only=True)
class Served:
    """The addresses of what `up` started: HTTP, Ray for drivers, Ray's dashboard; and the model that it serves.

    admin_token: the file with the token for what changes the server.
    """

    url: str
    address: str
    dashboard: str
    model: str
    admin_token: str


def up(
    document: ServeConfiguration, *, detach: bool = False, num_cpus: int | None = None, guarded: bool = True
) -> Served:
    """Start a cluster and serve on it; without detach, until KeyboardInterrupt, which stops all of it.

    guarded: ask for RAYCLS_TOKEN where this process has one; where other machines reach the host, it must have one.
    Whatever goes wrong on the way, nothing is left running. Raises UsageError, UnknownModelError, or ClusterError when
    a port is taken, a cluster is already running, or Ray or the application does not start.
    """
    document = document.guarded() if guarded else document.open_to_all()
    if running := cluster.status():
        raise ClusterError(
            f"already up: process {running.pid}, dashboard {running.dashboard}; stop it with `raycls down`"
        )
    if port_in_use(document.port, document.host):
        raise ClusterError(
            f"port {document.port} is in use by another program: choose one with --port, or stop it"
        )
    version = registry.resolve(document.model)
    admin_token = tokens.ensure_admin()
    started = cluster.start(num_cpus=num_cpus)
    try:
        url = _deploy(started, document, version)
        served = Served(
            url=url,
            address=started.address,
            dashboard=started.dashboard,
            model=version.reference,
            admin_token=str(admin_token),
        )
        progress.say(f"serving {served.model} at {served.url}; Ray's dashboard: {served.dashboard}")
        progress.say(f"admin token: {admin_token}")
        if not detach:
            progress.say("press Ctrl-C to stop")
            while cluster.status():
                time.sleep(1)
            raise ClusterError("Ray ended by itself")
    except BaseException:
        with progress.bar("stopping"):
            cluster.stop()
        raise
    return served


def down() -> bool:
    """Stop everything that `up` started. Return False when nothing was running."""
    with progress.bar("stopping"):
        return cluster.stop()


def deploy(document: ServeConfiguration) -> str:
    """Deploy the application on the cluster of `cluster.start`, or update it; return its URL when it answers.

    Replicas of the former version are replaced without losing a request; host, port and token stay what they were.
    Raises as `up`.
    """
    running = cluster.status()
    if running is None:
        raise ClusterError("no cluster is running: start one with `raycls up`")
    former = served(running)
    document = document.in_place_of(former) if former else document.guarded()
    return _deploy(running, document, registry.resolve(document.model))


def served(running: cluster.Cluster) -> ServeConfiguration | None:
    """Return what the cluster serves, or None.

    Raises ClusterError where it serves an application that raycls did not deploy: an update would stop that.
    """
    found = applications(running)
    configs = [
        app.get("deployed_app_config")
        for name, app in found["applications"].items()
        if not name.startswith(CHALLENGERS)  # which the control plane deploys by itself
    ]
    if not configs:
        return None
    if not all(config and config.get("import_path") in OWN_PATHS for config in configs):
        raise ClusterError(
            f"the cluster serves {', '.join(found['applications'])}, which raycls did not deploy: it would be stopped"
        )
    content = {key: found[key] for key in ("proxy_location", "http_options") if found.get(key)}
    try:
        return ServeConfiguration(content | {"applications": configs})
    except ConfigError as error:
        raise ClusterError(f"the cluster serves what raycls did not deploy: {error}") from None


def update(running: cluster.Cluster, version: registry.ModelVersion) -> None:
    """Serve the version in place of the present one, and return when it answers. All other settings stay.

    Raises ClusterError with Serve's reason.
    """
    document = served(running)
    if document is None:
        raise ClusterError("the cluster serves nothing: `raycls up` does")
    _deploy(running, document, version)


def applications(running: cluster.Cluster) -> dict[str, Any]:
    """Return what Serve says about itself: https://docs.ray.io/en/latest/serve/api/index.html#serve-rest-api."""
    return _rest(running, "GET").json()


def _deploy(running: cluster.Cluster, document: ServeConfiguration, version: registry.ModelVersion) -> str:
    document = document.pinned(model=version.reference)
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    with progress.bar(f"deploying {version.reference}", total=document.replicas) as bar:
        _rest(running, "PUT", document.content)
        while True:
            state = applications(running)["applications"].get(document.name, {})
            status, details = state.get("status"), state.get("deployments", {}).get(DEPLOYMENT, {})
            if status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise ClusterError(f"{version.reference} is not served: {reason(state.get('message', ''))}")
            replicas = [r for r in details.get("replicas", []) if r["state"] == "RUNNING"]
            bar.update(min(len(replicas), document.replicas))
            if status == "RUNNING" and len(replicas) >= document.replicas and _answers(document.url, version):
                return document.url
            if time.monotonic() > deadline:
                detail = reason(state.get("message", "") or details.get("message", "")) or status
                raise ClusterError(
                    f"{version.reference} is not served after {DEPLOY_TIMEOUT_S} s: {detail}; log: {running.log}"
                )
            time.sleep(0.25)


def reason(message: str) -> str:
    """Return the line of Serve's message that says what happened: the last line of a traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _answers(url: str, version: registry.ModelVersion) -> bool:
    try:
        health = local_http.request("GET", f"{url}/health", timeout=5)
        return bool(health.ok and health.json()["model"]["version"] == version.version)
    except (requests.RequestException, ValueError):
        return False


def _rest(running: cluster.Cluster, method: str, content: dict[str, Any] | None = None) -> requests.Response:
    address = f"{running.dashboard}/api/serve/applications/"
    headers = {"Authorization": f"Bearer {token()}"}
    try:
        response = local_http.request(method, address, json=content, headers=headers, timeout=60)
    except requests.RequestException as error:
        raise ClusterError(f"Ray's dashboard does not answer at {running.dashboard}: {error}") from None
    if not response.ok:
        raise ClusterError(f"Serve refused ({response.status_code}): {reason(response.text)}")
    return response
