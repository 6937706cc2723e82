"""What Ray's processes must find around them: environment variables, an authentication token, free ports.

    subprocess.run(["ray", "start", "--head"], env=os.environ | environment())

The one statement of the environment: `raycls up` sets it, `raycls env` prints it, cluster.yaml is tested against it.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from raycls.errors import ClusterError
from raycls.ray_patches import haproxy_rules

LOOPBACK = "127.0.0.1"
OWN_CORES = "RAYCLS_OWN_CORES"  # set where each replica of one thread is to keep to a core of its own
FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
NEAR = 100  # ports, from the best on: those of the dashboard, the ingress and others keep apart
# Ray runs workers at nice 15. Training fills every core, and would then wait for whatever else wants one.
SAME_PRIORITY = {"RAY_worker_niceness": "0"}
LOWEST_PRIORITY = 19  # for what computes beside predictions

# For processes that train. glibc hands large buffers back to the kernel at every step and has them zeroed again; with
# these it keeps them. One arena, as Ray Train computes in a thread, and the arenas of threads hold nothing above 64 MB.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_ARENA_MAX": "1",
}


def environment() -> dict[str, str]:
    """What must be in the environment of `ray start` on every node: `raycls env` prints it, `start` sets it."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        **SAME_PRIORITY,
        # HAProxy in front of the replicas: about five times the requests/s of Ray's own proxy.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # It reads a line of HAProxy's for every request, to count what replicas count already; and HAProxy, on four
        # threads, writes another to a log that nobody keeps. Together a tenth of two cores' requests/s.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        # Which would keep a thousand lines of a replica's log back; but for errors, it says one request in many.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        # A prediction may safely be repeated, so a request that died with its replica is sent to another. More often
        # than the three errors after which HAProxy takes a replica as gone: until then it may be the only one.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "10",
        # One inside a replica that hangs is answered 500, and not kept waiting for ever. Not repeated: where the
        # replicas are only slow, that would make them slower.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "8",
        # Ray's own is an hour, in which a few thousand clients that send nothing would keep all others out.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        # Only a request that fits into it can be repeated: 16 KB, HAProxy's own, is less than a small photograph.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
        # Ray's own 5 s between two looks at a replica, and what Ray has no setting for.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": haproxy_rules.after("5s"),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raycls.serving.replica.middleware:middlewares",
        "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": "raycls.ray_patches.keep_routes:keep",
        # What Ray's own processes do over and over (look at the replicas, at every process, at the node) makes requests
        # wait where cores are few: on two, with these processes stopped, the slowest hundredth took half as long.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        "REPORTER_UPDATE_INTERVAL_MS": "15000",
        "METRICS_RECORD_INTERVAL_S": "15",
        # A stopping replica finishes its requests; Ray's 30 s more of waiting only slow every update down.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    }


def private(directory: Path) -> dict[str, str]:
    """What two clusters on one machine must not share, and what keeps this one to itself."""
    return {
        # Ray replaces 127.0.0.1 by the machine's outward address, and listens on every interface, except where
        # it thinks that clusters are not supported. With this, each port of Ray's own is bound to loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray's default is one directory in /tmp for all, with an admin socket that every user may write to.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(8404)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(9101)),
        # On two cores at half load, with a low priority for Ray's agent, the slowest hundredth then took half as long.
        **({OWN_CORES: "1"} if _whole_machine() else {}),
        # There is no other node that requests could move to.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }


def _whole_machine() -> bool:
    """Whether this is no container, by the number that Linux gives to its first process namespace."""
    return Path("/proc/self/ns/pid").stat().st_ino == FIRST_PID_NAMESPACE


def ensure_token() -> None:
    """Make Ray's authentication token where none exists: `ray start`, unlike `ray.init`, does not make one."""
    path = _token_path()
    if os.environ.get("RAY_AUTH_TOKEN") or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, whole = tempfile.mkstemp(dir=path.parent)  # readable by its owner alone
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    with suppress(FileExistsError):  # another was first: its token counts
        os.link(whole, path)
    Path(whole).unlink()


def token() -> str:
    """The token that this machine shows to Ray. Raises ClusterError where there is none."""
    try:
        return os.environ.get("RAY_AUTH_TOKEN") or _token_path().read_text().strip()
    except OSError as error:
        raise ClusterError(f"no Ray token: {error}; make one with `ray get-auth-token --generate`") from None


def _token_path() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def port_in_use(port: int, host: str = "") -> bool:
    """Whether another program listens there; on every interface when host is empty."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def free_port(preferred: int) -> int:
    """The preferred port, or one of the next hundred where it is taken. Raises ClusterError where all are.

    Not one that the kernel picks: such ports it also gives to connections that go out, until whoever is to listen does.
    """
    for port in (preferred, *random.sample(range(preferred + 1, preferred + NEAR), NEAR - 1)):
        if not port_in_use(port):
            return port
    raise ClusterError(f"none of the ports {preferred} to {preferred + NEAR - 1} is free")
