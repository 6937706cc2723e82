"""Putting the application of serve_config.yaml on a cluster, and the pair `raycls up` and `raycls down`.

    served = up(Path("serve_config.yaml"), detach=True)      # Ray, ingress and application; served.url answers
    url = deploy(Path("serve_config.yaml"), replicas=2)      # the application alone, on the running cluster
    down()

The file goes to Ray's dashboard as it is, through Serve's REST interface, but for what the caller pins: model, host,
port, number of replicas, and who may ask. Knows nothing of what the application does with a request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from raycls import cluster, progress, registry
from raycls.config import ServingConfig, validated
from raycls.errors import ClusterError, ConfigError, UsageError
from raycls.ray_environment import LOOPBACK, port_in_use, token
from raycls.serving import auth

DEPLOY_TIMEOUT_S = 180
IMPORT_PATH, DEPLOYMENT = "raycls.serving.app:build", "Classifier"


@dataclass(frozen=True, kw_only=True)
class Served:
    """Where what `up` started is reached: HTTP, Ray's drivers, and Ray's dashboard and jobs."""

    url: str
    address: str
    dashboard: str
    model: str


def up(
    config: Path,
    *,
    detach: bool = False,
    model: str | None = None,
    host: str | None = None,
    port: int | None = None,
    replicas: int | None = None,
    num_cpus: int | None = None,
    guarded: bool = True,
) -> Served:
    """Start a cluster and serve on it; without detach, until KeyboardInterrupt, which stops all of it.

    guarded: ask for RAYCLS_TOKEN where this process has one; where other machines reach the host, it must have one.
    Whatever goes wrong on the way, nothing is left running. Raises UsageError, ConfigError, UnknownModelError, or
    ClusterError when a port is taken, a cluster is already running, or Ray or the application does not start.
    """
    document = load(config, model=model, host=host, port=port, replicas=replicas)
    if guarded:
        guard(document)
    if running := cluster.status():
        raise ClusterError(
            f"already up: process {running.pid}, dashboard {running.dashboard}; stop it with `raycls down`"
        )
    host, chosen = document["http_options"]["host"], document["http_options"]["port"]
    if port_in_use(chosen, host):
        raise ClusterError(f"port {chosen} is in use by another program: choose one with --port, or stop it")
    version = registry.resolve(document["applications"][0]["args"].get("model"))
    started = cluster.start(num_cpus=num_cpus)
    try:
        url = _deploy(started, document, version)
        served = Served(
            url=url, address=started.address, dashboard=started.dashboard, model=version.reference
        )
        progress.say(f"serving {served.model} at {served.url}; Ray's dashboard: {served.dashboard}")
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
    """Stop what `up` started, whole; False when nothing was running."""
    with progress.bar("stopping"):
        return cluster.stop()


def deploy(
    config: Path, *, model: str | None = None, port: int | None = None, replicas: int | None = None
) -> str:
    """Put the application on the cluster of `cluster.start`, or update it there, and wait until it answers; its URL.

    replicas fixes their number instead of autoscaling. Replicas of the former version are replaced without losing a
    request; host, port and token stay what they were. Raises as `up`.
    """
    document = load(config, model=model, port=port, replicas=replicas)
    running = cluster.status()
    if running is None:
        raise ClusterError("no cluster is running: start one with `raycls up`")
    if former := served(running):
        (application,) = former["applications"]
        document["http_options"] |= {key: former["http_options"][key] for key in ("host", "port")}
        if token_sha256 := application["args"].get("token_sha256"):
            document["applications"][0]["args"]["token_sha256"] = token_sha256
    else:
        guard(document)
    return _deploy(running, document, registry.resolve(document["applications"][0]["args"].get("model")))


def served(running: cluster.Cluster) -> dict[str, Any] | None:
    """The document that the cluster serves, as `load` gives one; None where it serves nothing.

    Raises ClusterError where it serves what is not raycls's: an update would take that away.
    """
    found = applications(running)
    configs = [app.get("deployed_app_config") for app in found["applications"].values()]
    if not configs:
        return None
    if len(configs) > 1 or not configs[0] or configs[0].get("import_path") != IMPORT_PATH:
        raise ClusterError(
            f"the cluster serves {', '.join(found['applications'])}, which raycls did not deploy: it would be stopped"
        )
    document = {key: found[key] for key in ("proxy_location", "http_options") if found.get(key)}
    return document | {"applications": [configs[0] | {"args": configs[0].get("args") or {}}]}


def update(running: cluster.Cluster, version: registry.ModelVersion) -> None:
    """Serve the version in place of the present one, all else as it is, and wait until it answers.

    Raises ClusterError with the reason that Serve gives.
    """
    document = served(running)
    if document is None:
        raise ClusterError("the cluster serves nothing: `raycls up` does")
    _deploy(running, document, version)


def load(
    config: Path,
    *,
    model: str | None = None,
    host: str | None = None,
    port: int | None = None,
    replicas: int | None = None,
) -> dict[str, Any]:
    """The file as Serve takes it, with what is pinned put in. Raises ConfigError where it is not such a file."""
    try:
        document = yaml.safe_load(config.read_text())
        application = document["applications"][0]
        application["args"] = application.get("args") or {}
        (deployment,) = [d for d in application.get("deployments") or [] if d["name"] == DEPLOYMENT]
        options = document.setdefault("http_options", {})
    except FileNotFoundError:
        raise ConfigError(f"there is no {config}: run this in raycls's folder, or name the file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{config} is not YAML: {' '.join(str(error).split())}") from None
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        raise ConfigError(f"{config} names no application with a deployment called {DEPLOYMENT}") from None
    if model is not None:
        application["args"]["model"] = model
    validated(ServingConfig, application["args"])
    options["host"] = host or options.get("host", LOOPBACK)
    options["port"] = port or options.get("port", 8000)
    if replicas is not None:
        deployment.pop("autoscaling_config", None)
        deployment["num_replicas"] = replicas
    return document


def guard(document: dict[str, Any]) -> None:
    """Have the application ask for this process's token. Raises UsageError where there is none and one is needed."""
    arguments, host = document["applications"][0]["args"], document["http_options"]["host"]
    if own := auth.own_token():
        arguments["token_sha256"] = auth.digest(own)
    elif auth.needed(host) and not arguments.get("token_sha256"):
        raise UsageError(
            f"other machines reach {host}: export {auth.TOKEN}=$(openssl rand -hex 32), which clients then send, "
            "or say --no-auth"
        )


def applications(running: cluster.Cluster) -> dict[str, Any]:
    """What Serve says about itself: https://docs.ray.io/en/latest/serve/api/index.html#serve-rest-api."""
    return _rest(running, "GET").json()


def _deploy(running: cluster.Cluster, document: dict[str, Any], version: registry.ModelVersion) -> str:
    application = document["applications"][0]
    application["args"]["model"] = version.reference
    name = application.get("name", "default")
    (deployment,) = [d for d in application["deployments"] if d["name"] == DEPLOYMENT]
    wanted = deployment.get("num_replicas") or deployment.get("autoscaling_config", {}).get("min_replicas", 1)
    host, port = document["http_options"]["host"], document["http_options"]["port"]
    url = f"http://{LOOPBACK if host == '0.0.0.0' else host}:{port}"
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    with progress.bar(f"deploying {version.reference}", total=wanted) as bar:
        _rest(running, "PUT", document)
        while True:
            state = applications(running)["applications"].get(name, {})
            status, details = state.get("status"), state.get("deployments", {}).get(DEPLOYMENT, {})
            if status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise ClusterError(f"{version.reference} is not served: {reason(state.get('message', ''))}")
            replicas = [r for r in details.get("replicas", []) if r["state"] == "RUNNING"]
            bar.update(min(len(replicas), wanted))
            if status == "RUNNING" and len(replicas) >= wanted and _answers(url, version):
                return url
            if time.monotonic() > deadline:
                detail = reason(state.get("message", "") or details.get("message", "")) or status
                raise ClusterError(
                    f"{version.reference} is not served after {DEPLOY_TIMEOUT_S} s: {detail}; log: {running.log}"
                )
            time.sleep(0.25)


def reason(message: str) -> str:
    """The line of Serve's message that says what happened: the last of a traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _answers(url: str, version: registry.ModelVersion) -> bool:
    try:
        health = requests.get(f"{url}/health", timeout=5)
        return bool(health.ok and health.json()["model"]["version"] == version.version)
    except (requests.RequestException, ValueError):
        return False


def _rest(running: cluster.Cluster, method: str, document: dict[str, Any] | None = None) -> requests.Response:
    address = f"{running.dashboard}/api/serve/applications/"
    headers = {"Authorization": f"Bearer {token()}"}
    try:
        response = requests.request(method, address, json=document, headers=headers, timeout=60)
    except requests.RequestException as error:
        raise ClusterError(f"Ray's dashboard does not answer at {running.dashboard}: {error}") from None
    if not response.ok:
        raise ClusterError(f"Serve refused ({response.status_code}): {reason(response.text)}")
    return response
