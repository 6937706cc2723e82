"""What outlives a cluster, on a host of its own: PostgreSQL, Redis, S3 (moto) and MLflow's server.

    start_services(host)

PostgreSQL has a database for MLflow and one for the studies.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.hosts import Host
from raycls.errors import BenchmarkError

BIN = Path(sys.executable).parent
POSTGRES = "/usr/lib/postgresql"
MLFLOW_PORT, S3_PORT, REDIS_PORT = 5000, 9000, 6380
LONGEST_S = 90


def start_services(host: Host) -> None:
    """Start all of them and return when they answer. Raises BenchmarkError."""
    host.folder.parent.chmod(0o711)  # PostgreSQL runs as another user
    data = host.folder / "postgres"
    data.mkdir()
    programs = sorted(Path(POSTGRES).iterdir())[-1] / "bin"
    subprocess.run(["chown", "postgres", str(data)], check=True)
    as_postgres = ["setpriv", "--reuid", "postgres", "--clear-groups"]
    host.run(
        [*as_postgres, str(programs / "initdb"), "-D", str(data), "-U", "raycls", "-E", "UTF8", "-A", "trust"]
    )
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all all trust\n")  # only these hosts reach it
    options = ["-c", "listen_addresses=*", "-c", f"unix_socket_directories={data}"]
    host.start(
        [*as_postgres, str(programs / "postgres"), "-D", str(data), *options], host.folder / "postgres.log"
    )
    ready = [str(programs / "pg_isready"), "-h", host.address, "-U", "raycls", "-d", "postgres"]
    _until(lambda: host.run(ready, check=False).returncode == 0, "PostgreSQL")
    for name in ("mlflow", "studies"):
        host.run([str(programs / "createdb"), "-h", host.address, "-U", "raycls", name])
    redis = [
        "redis-server",
        "--bind",
        host.address,
        "--port",
        str(REDIS_PORT),
        "--protected-mode",
        "no",
        "--save",
        "",
    ]
    host.start(redis, host.folder / "redis.log")
    host.start([str(BIN / "moto_server"), "-H", host.address, "-p", str(S3_PORT)], host.folder / "moto.log")
    mlflow = [
        str(BIN / "mlflow"),
        "server",
        "--host",
        host.address,
        "--port",
        str(MLFLOW_PORT),
        "--workers",
        "1",
    ]
    mlflow += [
        "--allowed-hosts",
        f"{host.address}:{MLFLOW_PORT}",
        "--artifacts-destination",
        str(host.folder / "artifacts"),
    ]
    mlflow += ["--backend-store-uri", f"postgresql+psycopg://raycls@{host.address}/mlflow"]
    host.start(mlflow, host.folder / "mlflow.log")
    for url in (f"http://{host.address}:{S3_PORT}", f"http://{host.address}:{MLFLOW_PORT}/health"):
        _until(partial(_answers, host, url), url)


def _until(found: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not found():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what} does not answer within {LONGEST_S} s")
        time.sleep(0.3)


def _answers(host: Host, url: str) -> bool:
    return host.run(["curl", "-sf", "-m", "2", "-o", "/dev/null", url], check=False).returncode == 0
