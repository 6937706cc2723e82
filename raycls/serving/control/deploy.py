"""Deploy the application of a ServeConfiguration on a cluster; `raycls up` and `raycls down`.

    document = ServeConfiguration.read(Path("serve_config.yaml"))
    served = up(document, detach=True)               # Ray, ingress and application; served.url answers
    url = deploy(document.pinned(replicas=2))        # the application alone, on the running cluster
    down()

The configuration goes to Ray's dashboard through Serve's REST interface, with the model's version and the token's
digest in it. Knows nothing of what the application does with a request.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import requests

from raycls import cluster, home, local_http, progress, registry
from raycls.cluster.environment import port_in_use
from raycls.errors import ClusterError
from raycls.serving import tokens
from raycls.serving.control.configuration import DEPLOYMENT, ServeConfiguration
from raycls.serving.control.serve_rest import Serve, own_serve, reason

DEPLOY_TIMEOUT_S, DRAIN_S = 180, 10
HAPROXY = "haproxy"  # the name of its processes


@dataclass(frozen=True, kw_only=True)
class Served:
    """The addresses of what `up` started: HTTP, Ray for drivers, Ray's dashboard; and the model that it serves.

    others: the URL of each other model, and its NAME/VERSION. admin_token: the file with the token for what changes the
    server.
    """

    url: str
    address: str
    dashboard: str
    model: str
    admin_token: str
    others: dict[str, str] = field(default_factory=dict)


def up(
    document: ServeConfiguration, *, detach: bool = False, num_cpus: int | None = None, guarded: bool = True
) -> Served:
    """Start a cluster and serve on it; without detach, until KeyboardInterrupt, which stops all of it.

    guarded: ask for RAYCLS_TOKEN where this process has one; where other machines reach the host, it must have one.
    Whatever goes wrong on the way, nothing is left running. Raises UsageError, UnknownModelError, or ClusterError when
    a port is taken, a cluster is already running, or Ray or the application does not start.
    """
    if running := cluster.status():
        raise ClusterError(
            f"already up: process {running.pid}, dashboard {running.dashboard}; stop it with `raycls down`"
        )
    if port_in_use(document.port, document.host):
        raise ClusterError(
            f"port {document.port} is in use by another program: choose one with --port, or stop it"
        )
    document = document.guarded() if guarded else document.open_to_all()
    versions = _wanted(document)
    admin_token = tokens.ensure_admin()
    started = cluster.start(num_cpus=num_cpus)
    try:
        url = _deploy(_own(), document, versions)
        served = Served(
            url=url,
            address=started.address,
            dashboard=started.dashboard,
            model=versions[document.name].reference,
            others={each.url: versions[each.name].reference for each in document.models[1:]},
            admin_token=str(admin_token),
        )
        progress.say(f"serving {served.model} at {served.url}; Ray's dashboard: {served.dashboard}")
        for address, reference in served.others.items():
            progress.say(f"serving {reference} at {address}")
        progress.say(f"admin token: {admin_token}")
        if not detach:
            progress.say("press Ctrl-C to stop")
            while cluster.status():
                time.sleep(1)
            raise ClusterError("Ray ended by itself")
    except BaseException:
        down()
        raise
    return served


def down() -> bool:
    """Stop everything that `up` started, after the requests that are inside. Return False when nothing was running."""
    with progress.bar("stopping"):
        try:
            if running := cluster.status():
                say_what_ends()
                _drain(running)
        finally:  # a second Ctrl-C waits no longer
            stopped = cluster.stop()
    return stopped


def say_what_ends() -> None:
    """Say so where a promotion or a rollback is under way: it ends with the server, and has no effect."""
    try:
        with home.lock(registry.PROMOTING, "busy"):
            return
    except ClusterError:
        progress.say(
            "a promotion or rollback is under way, and ends without effect: begin it again after `raycls up`"
        )


def _drain(running: cluster.Cluster) -> None:
    """Let HAProxy take no more connections, and wait until it has answered the requests inside, for DRAIN_S at most."""
    from raycls.cluster.processes import psutil

    proxies = []
    for process in running.head.members():
        with suppress(psutil.Error):  # it has ended
            if process.name() == HAPROXY:
                process.send_signal(signal.SIGUSR1)  # a soft stop: HAProxy's management guide, 4
                proxies.append(process)
    psutil.wait_procs(proxies, timeout=DRAIN_S)


def deploy(document: ServeConfiguration) -> str:
    """Deploy the application on the cluster of `cluster.start`, or update it; return its URL when it answers.

    Replicas of the former version are replaced without losing a request; host, port and token stay what they were.
    Raises as `up`.
    """
    serve = _own()
    former = serve.served()
    document = document.in_place_of(former) if former else document.guarded()
    return _deploy(serve, document, _wanted(document))


def _wanted(document: ServeConfiguration) -> dict[str, registry.ModelVersion]:
    """Return the version that each application shall serve. Raises UnknownModelError."""
    return {each.name: registry.resolve(each.model) for each in document.models}


def _own() -> Serve:
    serve = own_serve()
    if serve is None:
        raise ClusterError("no cluster is running: start one with `raycls up`")
    return serve


def update(
    serve: Serve,
    versions: Mapping[str, registry.ModelVersion],
    document: ServeConfiguration | None = None,
) -> None:
    """Serve other versions in place of the present ones, and return when they answer. All other settings stay.

    versions: by the name of the application. document: what else is served; default: what is now. Raises ClusterError
    with Serve's reason.
    """
    document = document or serve.served()
    if document is None:
        raise ClusterError("the cluster serves nothing: `raycls up` does")
    _deploy(serve, document, versions)


def _deploy(serve: Serve, document: ServeConfiguration, versions: Mapping[str, registry.ModelVersion]) -> str:
    for name, version in versions.items():
        document = document.of(name).pinned(model=version)
    waiting = [each for each in document.models if each.name in versions]
    serve.put(document.content)
    for each in waiting:
        _wait_for(serve, each, versions[each.name])
    return document.models[0].url


def _wait_for(serve: Serve, document: ServeConfiguration, version: registry.ModelVersion) -> None:
    """Return when the application answers with the version. Raises ClusterError."""
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    with progress.bar(f"deploying {version.reference}", total=document.replicas) as bar:
        while True:
            state = serve.details()["applications"].get(document.name, {})
            status, details = state.get("status"), state.get("deployments", {}).get(DEPLOYMENT, {})
            if status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise ClusterError(f"{version.reference} is not served: {reason(state.get('message', ''))}")
            replicas = [r for r in details.get("replicas", []) if r["state"] == "RUNNING"]
            bar.update(min(len(replicas), document.replicas))
            runs = status == "RUNNING" and len(replicas) >= document.replicas
            # From another machine, only Serve's word is known.
            if runs and (not serve.here or _answers(document.url, version)):
                return
            if time.monotonic() > deadline:
                detail = reason(state.get("message", "") or details.get("message", "")) or status
                raise ClusterError(
                    f"{version.reference} is not served after {DEPLOY_TIMEOUT_S} s: {detail}"
                    + (f"; log: {serve.log}" if serve.log else "")
                )
            time.sleep(0.25)


def _answers(url: str, version: registry.ModelVersion) -> bool:
    try:
        health = local_http.request("GET", f"{url}/health", timeout=5)
        return bool(health.ok and health.json()["model"]["version"] == version.version)
    except (requests.RequestException, ValueError):
        return False
