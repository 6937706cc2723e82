"""The surroundings of Ray's processes: environment variables, an authentication token, free ports.

    subprocess.run(["ray", "start", "--head"], env=os.environ | environment())

The environment stands here alone: `raycls up` sets it, and `raycls env` prints it for `ray start`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raycls.errors import ClusterError, UsageError
from raycls.ray_patches import haproxy_rules

LOOPBACK = "127.0.0.1"
# Secrets of this process's user, which no process of Ray needs: whoever runs a task or a job could read them there.
TOKEN, ADMIN_TOKEN = "RAYCLS_TOKEN", "RAYCLS_ADMIN_TOKEN"
OWN_CORES = "RAYCLS_OWN_CORES"  # set: each replica of one thread keeps to a core of its own
FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
NEAR = 100  # ports to try from the preferred one on, so that the ranges of different services do not meet
# Ray's default for workers is nice 15. Training would then wait for every other process on its cores.
SAME_PRIORITY = {"RAY_worker_niceness": "0"}
LOW_PRIORITY = 10  # about a tenth of a busy core
LOWEST_PRIORITY = 19  # for processes that compute beside predictions
# Set: what trains in this process, and in those that it starts, gives way to predictions.
GIVE_WAY = "RAYCLS_GIVE_WAY"

# For processes that train. By default glibc returns large buffers to the kernel at every step, and the kernel zeroes
# them again. These settings keep them. One arena: Ray Train computes in a thread, and a thread's arena holds 64 MB.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_ARENA_MAX": "1",
}


def environment() -> dict[str, str]:
    """Return the variables that `ray start` needs on every node."""
    refused = _refused_header()
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        **SAME_PRIORITY,
        # HAProxy in front of the replicas carries about five times the requests/s of Ray's own proxy.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Ray would read a log line of HAProxy for every request, to count what replicas count already, and HAProxy
        # would write another line to a log that is not kept. Both cost a tenth of the requests/s on two cores.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        # Ray would hold back up to a thousand lines of a replica's log. raycls logs errors and a share of the requests.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        # A prediction may be repeated, so HAProxy sends a request that died with its replica to another one: once, as
        # the request itself may be what killed it. The first refused connection tells it that a replica is gone.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "1",
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        # A request inside a replica that hangs is answered 504. HAProxy does not repeat it: slow replicas would become
        # slower.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "8",
        # Ray's default is an hour: a few thousand clients that send nothing would keep all others out.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        # HAProxy can repeat only a request that fits into its buffer. Its default, 16 KB, is less than a photograph.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
        # Ray's default of 5 s between two health checks, and the rules that Ray has no setting for.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": haproxy_rules.with_rules("5s", refused=refused),
        haproxy_rules.REFUSED_VARIABLE: refused,
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raycls.serving.replica.middleware:middlewares",
        "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": "raycls.ray_patches.in_controller:install",
        # Ray's own processes look at replicas, processes and the node again and again. Where cores are few, requests
        # wait for them: on two cores they double the p99 at half load.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        "REPORTER_UPDATE_INTERVAL_MS": "15000",
        "METRICS_RECORD_INTERVAL_S": "15",
        # A stopping replica finishes its requests. Ray's default of 30 s more only makes every update slower.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    }


def _refused_header() -> str:
    """Return the name of the header between HAProxy and replicas: the same on all nodes, and known to no client.

    Where Ray asks for no token, everybody may do everything.
    """
    try:
        secret = token()
    except ClusterError:
        return "x-refused"
    return f"x-refused-{hashlib.sha256(f'refused {secret}'.encode()).hexdigest()[:16]}"


@contextmanager
def without_secrets() -> Iterator[None]:
    """Hide the user's secrets from the processes that this one starts inside the `with` block."""
    hidden = {name: os.environ.pop(name) for name in (TOKEN, ADMIN_TOKEN) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def give_way() -> None:
    """Take the lowest priority where GIVE_WAY is set: a retraining on the machine that serves must not slow answers."""
    if os.environ.get(GIVE_WAY):
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)


def give_way_here() -> None:
    """Give the calling thread a low priority: a client waits for it. Only Linux has priorities of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)


def private(directory: Path) -> dict[str, str]:
    """Return the variables that two clusters on one machine must not share, and those that keep one to loopback."""
    return {
        # Ray replaces 127.0.0.1 by the machine's outward address and listens on every interface, except where it
        # believes that clusters are not supported. With this setting Ray binds all its ports to loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray's default is one directory in /tmp for all clusters, with an admin socket that every user may write to.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(8404)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(9101)),
        # While HAProxy knows no replica yet, it turns to Ray's own proxies. Those share a port with another cluster's:
        # requests to one cluster were answered by the other one, without its token.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port(8600)),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port(9500)),
        # Together with a low priority for Ray's agent, this halves the p99 at half load on two cores.
        **({OWN_CORES: "1"} if _whole_machine() else {}),
        # There is no other node for the requests.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }


def _whole_machine() -> bool:
    """Return whether this process runs outside containers: Linux's first process namespace has a fixed number."""
    return Path("/proc/self/ns/pid").stat().st_ino == FIRST_PID_NAMESPACE


def ensure_token() -> None:
    """Make Ray's authentication token where there is none: `ray.init` makes one, `ray start` does not."""
    path = _token_path()
    if os.environ.get("RAY_AUTH_TOKEN") or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, whole = tempfile.mkstemp(dir=path.parent)  # readable by its owner alone
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    with suppress(FileExistsError):  # another process was first: its token counts
        os.link(whole, path)
    Path(whole).unlink()


def token() -> str:
    """Return the token that this machine sends to Ray. Raises ClusterError where there is none."""
    try:
        return os.environ.get("RAY_AUTH_TOKEN") or _token_path().read_text().strip()
    except OSError as error:
        raise ClusterError(f"no Ray token: {error}; make one with `ray get-auth-token --generate`") from None


def _token_path() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def port_in_use(port: int, host: str = "") -> bool:
    """Return whether another program listens on the port of the host; an empty host is every interface.

    Raises UsageError for a host that is none of this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"{host} is no address of this machine: `ip address` shows them") from None
            return True
    return False


def free_port(preferred: int) -> int:
    """Return the preferred port, or one of the next hundred where it is taken. Raises ClusterError where all are.

    The kernel's own choice would not do: it may give such a port to an outgoing connection before we listen on it.
    """
    for port in (preferred, *random.sample(range(preferred + 1, preferred + NEAR), NEAR - 1)):
        if not port_in_use(port):
            return port
    raise ClusterError(f"none of the ports {preferred} to {preferred + NEAR - 1} is free")
