"""What is wrong with a running cluster or with serve_config.yaml, and how to mend it.

    for finding in examine(Path("serve_config.yaml")):
        print("ok" if finding.ok else "problem", finding.text, finding.mend)

Each check is a function of plain values, which `examine` gathers. Nothing is started, stopped or changed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from raycls import cluster, home, local_http, registry
from raycls.cluster.environment import environment, port_in_use
from raycls.data.files import shown
from raycls.errors import ClusterError, RayclsError, UnknownModelError, UsageError
from raycls.ray_patches import guard, patches, serve_host
from raycls.serving import state
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.serve_rest import own_serve

EVERY_ADDRESS = ("0.0.0.0", "::")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check's outcome; `mend` is the way out of a problem."""

    ok: bool
    text: str
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a task found on one node: its environment, and whether it sees a new file in the storage."""

    name: str
    environment: dict[str, str]
    sees_storage: bool


def examine(config: Path, *, port: int | None = None) -> list[Finding]:
    """Return every check's finding, in the order in which problems are best mended."""
    findings = [writable(home.home()), champion(), *ray_patches()]
    try:
        document = ServeConfiguration.read(config).pinned(port=port)
    except RayclsError as error:
        findings.append(
            Finding(ok=False, text=str(error), mend="correct the file, or name another with --config")
        )
    else:
        findings += [*batching(document), _exposed(document), http_port(document)]
    try:
        cluster.connect(start_local=False)
    except ClusterError as error:
        return [*findings, Finding(ok=False, text=str(error), mend="raycls up")]
    nodes = _nodes()
    findings += [ingress(nodes), authentication(nodes), shared_storage(home.storage(), nodes)]
    if host := serve_host.host():
        findings.append(reach(host, nodes))
    return findings


def writable(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(existing, os.W_OK | os.X_OK) and existing.is_dir():
        return Finding(ok=True, text=f"RAYCLS_HOME {folder} can be written")
    return Finding(
        ok=False,
        text=f"RAYCLS_HOME {folder} cannot be written",
        mend="export RAYCLS_HOME=a folder of your own",
    )


def champion() -> Finding:
    try:
        version = registry.resolve()
        registry.checkpoint(version)
    except UnknownModelError as error:
        return Finding(ok=False, text="no model is champion", mend=str(error).partition(": ")[2])
    except RayclsError as error:
        return Finding(
            ok=False, text=str(error), mend="raycls models, then raycls promote a version that is whole"
        )
    return Finding(ok=True, text=f"the champion is {version.reference}")


def ray_patches() -> list[Finding]:
    """Say for each patch of raycls/ray_patches/ whether it acts. A needed patch that does not match is a problem."""
    findings = []
    for patch in patches():
        state, reason = guard.state(patch)
        text = f"patch {patch.name}: {state}" + (f" ({reason})" if reason else f"; {patch.buys}")
        ok = state != "does not match"
        mend = "" if ok else f"install {patch.library} {patch.version}, or run without: {guard.CHOICE}=none"
        findings.append(Finding(ok=ok, text=text, mend=mend))
    return findings


def batching(document: ServeConfiguration) -> list[Finding]:
    """A replica must be handed at least two batches' worth of requests, and more than it refuses itself."""
    settings = document.settings
    ongoing = document.deployment.get("max_ongoing_requests", 5)  # Serve's default
    findings = []
    if ongoing < 2 * settings.max_batch_size:
        findings.append(
            Finding(
                ok=False,
                text=f"max_ongoing_requests {ongoing} holds batches below max_batch_size {settings.max_batch_size}",
                mend=f"set max_ongoing_requests to {2 * settings.max_batch_size} or more",
            )
        )
    if ongoing <= settings.max_pending:
        findings.append(
            Finding(
                ok=False,
                text=f"max_ongoing_requests {ongoing} is reached before max_pending {settings.max_pending}: "
                "requests beyond it wait and do not get 429",
                mend=f"set max_ongoing_requests above {settings.max_pending}, or max_pending below {ongoing}",
            )
        )
    return findings or [
        Finding(ok=True, text=f"{ongoing} ongoing requests fill batches of {settings.max_batch_size}")
    ]


def _exposed(document: ServeConfiguration) -> Finding:
    """Return `exposure` of what the running cluster serves, else of the file."""
    serve = own_serve()
    try:
        if serve and (served := serve.served()):
            return exposure(served)
        with suppress(UsageError):  # `exposure` reports it
            document = document.guarded()
        return exposure(document)
    except ClusterError as error:
        return Finding(ok=False, text=str(error), mend="raycls down, then raycls up")
    except RayclsError as error:
        return Finding(
            ok=False, text=str(error), mend="see whether the storage answers and its files are whole"
        )


def exposure(document: ServeConfiguration) -> Finding:
    """Say whether other machines reach /predict without a token."""
    host, has_tokens = document.host, state.load().has("predict")
    if document.is_exposed and not has_tokens:
        return Finding(
            ok=False,
            text=f"/predict on {host} asks for no token, and other machines reach it",
            mend="raycls tokens add NAME --role predict, unless no_auth is meant",
        )
    asked = not document.arguments.get("no_auth") and (has_tokens or document.asks_for_token)
    asks = "a token" if asked else "no token"
    return Finding(ok=True, text=f"/predict on {host} asks for {asks}")


def http_port(document: ServeConfiguration) -> Finding:
    """Say whether the port is free, serves raycls, or belongs to another program."""
    port = document.port
    if not port_in_use(port, document.host):
        return Finding(ok=True, text=f"port {port} is free")
    try:
        health = local_http.request("GET", f"{document.url}/health", timeout=5).json()
        return Finding(
            ok=True, text=f"port {port} serves {health['model']['name']}/{health['model']['version']}"
        )
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return Finding(
            ok=False,
            text=f"port {port} is in use by another program",
            mend=f"stop it (`ss -ltnp 'sport = :{port}'` shows it), or raycls up --port another",
        )


def ingress(nodes: Sequence[Node]) -> Finding:
    """Say whether Ray was started with the variables of `raycls env`; they cannot be added later."""
    wrong = {
        name: [node.name for node in nodes if node.environment.get(name) != value]
        for name, value in environment().items()
        if name.startswith("RAY_SERVE_")
    }
    wrong = {name: where for name, where in wrong.items() if where}
    if not wrong:
        return Finding(ok=True, text="the HAProxy ingress is enabled")
    missing = ", ".join(wrong)
    return Finding(
        ok=False,
        text=f"Ray was started without the fast ingress on {', '.join(wrong[next(iter(wrong))])}: {missing}",
        mend='raycls up; or stop Ray, eval "$(raycls env)" on every node, and start it again',
    )


def authentication(nodes: Sequence[Node]) -> Finding:
    open_nodes = [node.name for node in nodes if node.environment.get("RAY_AUTH_MODE", "").lower() != "token"]
    if not open_nodes:
        return Finding(ok=True, text="Ray asks for its token, and takes this machine's")
    return Finding(
        ok=False,
        text=f"RAY_AUTH_MODE is not token on {', '.join(open_nodes)}: everyone who reaches Ray can run code there",
        mend='stop Ray, eval "$(raycls env)" on every node, and start it again',
    )


def reach(host: str, nodes: Sequence[Node]) -> Finding:
    """Say whether the address on which Serve listens lets the ingress of each node reach the replicas of all."""
    if len(nodes) < 2 or host in EVERY_ADDRESS:
        return Finding(ok=True, text=f"the server listens on {host}")
    return Finding(
        ok=False,
        text=f"{len(nodes)} nodes, and the server listens on {host}: none reaches the replicas of another",
        mend="serve shutdown, then serve deploy deploy/serve_config.yaml: Serve keeps the address it began with",
    )


def shared_storage(storage: str, nodes: Sequence[Node]) -> Finding:
    """Say whether all nodes see the storage: a path that they share, or a URI."""
    blind = [node.name for node in nodes if not node.sees_storage]
    if "://" in storage or not blind:
        return Finding(ok=True, text=f"all nodes reach the storage {shown(storage)}")
    return Finding(
        ok=False,
        text=f"the storage {storage} is not the same folder on {', '.join(blind)}",
        mend="export RAYCLS_STORAGE=s3://bucket/folder, or a folder that every node mounts",
    )


def _nodes() -> list[Node]:
    """Run a task on each node that looks for a new file in the storage."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(name: str, marker: str) -> dict[str, Any]:
        variables = {key: value for key, value in os.environ.items() if key.startswith("RAY_")}
        return {"name": name, "environment": variables, "sees_storage": os.path.exists(marker)}  # noqa: PTH110

    storage = home.storage()
    local = storage.removeprefix("file://")
    with tempfile.NamedTemporaryFile(dir=local if Path(local).is_dir() else None) as marker:
        task = ray.remote(num_cpus=0)(look)
        looks = [
            task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(node["NodeName"], marker.name)
            for node in ray.nodes()
            if node["Alive"]
        ]
        return [Node(**found) for found in ray.get(looks, timeout=60)]
