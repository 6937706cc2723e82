"""deploy/compose.yaml, up with podman-compose: does it answer, and what survives down and up."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.container_images import ROOT
from harness.podman import Podman, Row, asked, row, until
from raycls import progress

# What a composition needs before it serves.
FIRST = (
    ("data", "prepare", "digits"),
    ("data", "push", "digits"),
    ("train", "digits", "--preset", "smoke"),
    ("tune", "digits", "--trials", "2", "--max-epochs", "1", "--study", "composed"),
    ("promote", "digits", "1", "--force", "--reason", "the first"),
)
MLFLOW_ANSWERS = "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/health')"


@contextmanager
def composed(podman: Podman) -> Iterator[None]:
    """Bring the composition up with empty volumes, and take it down with them."""
    podman.compose("down", "--volumes", check=False)
    podman.run("sh", "deploy/secrets.sh")
    try:
        with progress.bar("training and tuning in the composition", len(FIRST)) as bar:
            podman.compose("up", "-d", "--no-build", "postgres", "s3")
            until(
                lambda: _runs(podman, "postgres", "pg_isready", "-U", "raycls", "-d", "studies"), "PostgreSQL"
            )
            podman.compose("up", "-d", "--no-build", "mlflow")
            until(lambda: _runs(podman, "mlflow", "python", "-c", MLFLOW_ANSWERS), "MLflow")
            for words in FIRST:
                podman.compose("run", "--rm", "-T", "--no-deps", "raycls", *words)
                bar.advance()
        podman.compose("up", "-d", "--no-build")
        yield
    finally:
        podman.compose("down", "--volumes", check=False)


def _runs(podman: Podman, service: str, *words: str) -> bool:
    """Return whether a program in a container succeeds. Podman without systemd makes no health checks by itself."""
    done = subprocess.run(
        ["podman-compose", "-f", "deploy/compose.yaml", "exec", "-T", service, *words],
        cwd=ROOT,
        env=podman.env,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def together(podman: Podman, folder: Path, image: Path) -> Iterator[Row]:
    """Yield the rows of the composition, which is up."""
    token = (ROOT / "deploy" / "secrets" / "RAYCLS_TOKEN").read_text()
    port = podman.env["PORT"]
    inside = ("exec", "-T", "raycls", "raycls-entrypoint")
    other = ("exec", "-T", "--env", "RAYCLS_HOME=/tmp/other", "raycls", "raycls-entrypoint")
    authority = folder / "root.crt"
    url = f"https://localhost:{port}"

    def trusted() -> bool:
        found = podman.compose(
            "exec", "-T", "proxy", "cat", "/data/caddy/pki/authorities/local/root.crt", check=False
        )
        authority.write_text(found + "\n")
        return "BEGIN CERTIFICATE" in found

    def predicted() -> dict[str, Any]:
        return asked(f"{url}/predict", token, image, "--cacert", str(authority))

    def status(path: str, *options: str) -> str:
        ask = [
            "curl",
            "-s",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--cacert",
            str(authority),
            *options,
        ]
        return podman.run(*ask, url + path, check=False)

    with progress.bar("waiting for the composition"):
        until(trusted, "the proxy's authority")
        until(predicted, "a prediction behind TLS")
    yield row("a prediction behind TLS, by a private authority", predicted()["model_version"], "1")
    yield row("without a token", status("/predict", "-F", f"file=@{image}"), "401")
    yield row("Grafana's place behind the proxy (a stand-in)", status("/grafana/"), "not 502")
    series = 'http://127.0.0.1:9090/api/v1/query?query=up{job="raycls"}'
    found = until(
        lambda: _value(podman.compose("exec", "-T", "prometheus", "curl", "-sg", series, check=False)),
        "Prometheus",
    )
    yield row("Prometheus scrapes raycls with its token", found, "1")
    pulled = podman.compose(*other, "data", "pull", "digits@1")
    yield row("the dataset in the bucket, for another home", pulled.split(",")[0], "digits@1")
    podman.compose("down")
    podman.compose("up", "-d", "--no-build")
    until(predicted, "a prediction after down and up")
    yield row("after `down` and `up`: the version that answers", predicted()["model_version"], "1")
    trials = json.loads(podman.compose(*inside, "tune", "show", "composed", "--json"))["trials"]
    yield row("after `down` and `up`: trials of the study in PostgreSQL", len(trials), "2")


def _value(answer: str) -> str:
    try:
        return str(json.loads(answer)["data"]["result"][0]["value"][1])
    except (ValueError, LookupError):
        return ""
