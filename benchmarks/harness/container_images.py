"""Images for benchmarks/containers.py, built without a registry: raycls's own, and stand-ins of those in compose.yaml.

    images = built(Path("/var/tmp/raycls-containers"))       # {"RAYCLS_IMAGE": "localhost/raycls", …}

The base images come from Debian by mmdebstrap. A stand-in runs the same command line as the image in whose place it is:
Debian's Caddy, PostgreSQL and Prometheus, and moto's S3 server. Grafana is in no registry that is known here; its
stand-in answers on its port and nothing else. Knows buildah; nothing of what the containers do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from raycls import progress
from raycls.errors import UsageError

ROOT, STAND_INS = Path(__file__).parents[2], Path(__file__).parent / "stand_ins"
TOOLS = ("buildah", "podman", "podman-compose", "runc", "mmdebstrap", "catatonit")
PACKAGES = "buildah podman runc mmdebstrap catatonit netavark aardvark-dns"
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
RAYCLS, BASE, STAND_IN = "localhost/raycls", "localhost/raycls-base", "localhost/raycls-stand-in"
# Cgroups of systemd and crun do not work in every container or virtual machine. CNI's name server, podman's other
# network, does not know the names of all networks that a container is in.
CONFIGURATION = """\
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=8000:8000"]
[network]
network_backend = "netavark"
"""
# Of each stand-in: its variable in compose.yaml, and the words that come before the command of compose.yaml.
ENTRIES = {
    "CADDY_IMAGE": [],
    "POSTGRES_IMAGE": ["/usr/local/bin/postgres.sh"],
    "S3_IMAGE": ["python3", "/usr/local/bin/s3.py"],
    "PROMETHEUS_IMAGE": ["prometheus"],
    "GRAFANA_IMAGE": ["python3", "-m", "http.server", "3000", "--directory", "/srv"],
}


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which buildah and podman run here. Raises UsageError where one is missing."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise UsageError(
            f"{', '.join(missing)} must be there: apt-get install {PACKAGES}; pip install podman-compose"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "containers.conf").write_text(CONFIGURATION)
    return {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}


def built(folder: Path) -> tuple[dict[str, str], float]:
    """Build what is not there. Return the images by their variable in compose.yaml, and the seconds of raycls's own."""
    env = environment(folder)
    _base(folder, env, BASE, "python3,python3-venv,python3-pip,ca-certificates")
    seconds = _raycls(folder, env)
    if not _exists(STAND_IN, env):
        _base(folder, env, STAND_IN, "python3,ca-certificates,caddy,postgresql,prometheus,curl")
    if not (folder / "moto").exists():
        asked = ["--python", "3.11", "--target", str(folder / "moto"), "moto[s3,server]"]
        _run(["uv", "pip", "install", "--quiet", *asked], env)
    images = {"RAYCLS_IMAGE": RAYCLS}
    for variable, entry in ENTRIES.items():
        images[variable] = f"{STAND_IN}-{variable.removesuffix('_IMAGE').lower()}"
        _stand_in(folder, env, images[variable], entry)
    return images, seconds


def _base(folder: Path, env: dict[str, str], image: str, packages: str) -> None:
    if _exists(image, env):
        return
    found = [line.split()[1] for line in SOURCES.read_text().splitlines() if line.startswith("URIs:")]
    archive = folder / f"{Path(image).name}.tar"
    with progress.bar(f"making {image} of Debian's packages"):
        source = f"deb {found[0]} bookworm main"
        _run(
            ["mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(archive), source],
            env,
        )
        container = _run(["buildah", "from", "scratch"], env)
        _run(["buildah", "add", container, str(archive), "/"], env)
        _run(
            ["buildah", "config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container],
            env,
        )
        _run(["buildah", "commit", "--rm", container, image], env)
    archive.unlink()


def _raycls(folder: Path, env: dict[str, str]) -> float:
    """Build deploy/Dockerfile as it stands, with this machine's own configuration of package clients for the time."""
    (folder / "uv").mkdir(exist_ok=True)
    (folder / "uv" / "uv.toml").write_text("system-certs = true\n")
    mounted = [f"{folder}/uv:/etc/uv:ro"]
    mounted += [f"{path}:{path}:ro" for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
    began = time.monotonic()
    with progress.bar("building deploy/Dockerfile"):
        _run(
            ["buildah", "bud", "--format", "docker", "--isolation", "chroot", "--network", "host", "--layers"]
            + [word for volume in mounted for word in ("--volume", volume)]
            + ["--build-arg", f"BASE={BASE}", "-f", "deploy/Dockerfile", "-t", RAYCLS, "."],
            env,
        )
    return time.monotonic() - began


def _stand_in(folder: Path, env: dict[str, str], image: str, entry: Sequence[str]) -> None:
    container = _run(["buildah", "from", "--pull-never", STAND_IN], env)
    _run(["buildah", "copy", container, str(STAND_INS / "postgres.sh"), "/usr/local/bin/"], env)
    _run(["buildah", "copy", container, str(STAND_INS / "s3.py"), "/usr/local/bin/"], env)
    _run(["buildah", "copy", container, str(folder / "moto"), "/opt/s3"], env)
    words = "[" + ", ".join(f'"{word}"' for word in entry) + "]"
    _run(["buildah", "config", "--entrypoint", words, container], env)
    _run(["buildah", "commit", "--rm", container, image], env)


def _exists(image: str, env: dict[str, str]) -> bool:
    return (
        subprocess.run(["buildah", "inspect", image], env=env, capture_output=True, check=False).returncode
        == 0
    )


def _run(command: Sequence[str], env: dict[str, str]) -> str:
    """Run a command in the repository and return its last line. Raises UsageError with its end where it failed."""
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{' '.join(command[:3])} failed: {done.stderr[-2000:]}")
    return (done.stdout.splitlines() or [""])[-1]
