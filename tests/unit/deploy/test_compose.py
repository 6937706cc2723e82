"""deploy/compose.yaml and the image: one published port, no secret in an environment, and files that exist."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_proxys_port_alone_is_published(document: dict[str, Any]) -> None:
    published = {
        name: service["ports"] for name, service in document["services"].items() if "ports" in service
    }
    assert list(published) == ["proxy"]
    assert all(service.get("network_mode") is None for service in document["services"].values())


def test_every_file_that_is_mounted_is_here(document: dict[str, Any]) -> None:
    mounted = [
        volume.split(":")[0]
        for service in document["services"].values()
        for volume in service.get("volumes", ())
    ]
    files = [path for path in mounted if path.startswith("./")]
    assert len(files) >= 5
    for path in files:
        assert (DEPLOY / path).exists(), path
    named = {path for path in mounted if not path.startswith("./")}
    assert named == set(document["volumes"])


def test_secrets_are_files_and_the_script_makes_them(document: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    script.write_text((DEPLOY / "secrets.sh").read_text())
    for _ in range(2):
        subprocess.run(["sh", str(script)], check=True, capture_output=True)
    made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(document["secrets"])
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert len(set(made.values())) == len(made)
    used = {name for service in document["services"].values() for name in service.get("secrets", ())}
    assert used == set(made)
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    assert {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()} == made
    assert (
        yaml.safe_load(made["S3_CONFIG"])["identities"][0]["credentials"][0]["accessKey"]
        == made["AWS_ACCESS_KEY_ID"]
    )


def test_no_secret_stands_in_a_file_that_is_committed() -> None:
    ignored = (DEPLOY.parent / ".gitignore").read_text().splitlines()
    assert "/deploy/secrets/" in ignored
    assert not re.search(r"(PASSWORD|TOKEN|SECRET\w*): [^/\s{]", (DEPLOY / "compose.yaml").read_text())


def test_the_entrypoint_reads_secrets_and_runs_what_it_is_told(tmp_path: Path) -> None:
    secrets, programs = tmp_path / "secrets", tmp_path / "bin"
    secrets.mkdir()
    programs.mkdir()
    (secrets / "RAYCLS_TOKEN").write_text("a b'c\n")
    for name in ("raycls", "mlflow"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $* [$RAYCLS_TOKEN]"\n')
        (programs / name).chmod(0o755)
    script = tmp_path / "entrypoint.sh"
    script.write_text((DEPLOY / "entrypoint.sh").read_text().replace("/run/secrets", str(secrets)))

    def said(*words: str) -> str:
        env = {"PATH": f"{programs}:{os.environ['PATH']}"}
        return subprocess.run(
            ["sh", str(script), *words], env=env, check=True, capture_output=True, text=True
        ).stdout

    assert said("up", "--host", "0.0.0.0") == "raycls up --host 0.0.0.0 [a b'c]\n"
    assert said("mlflow", "server") == "mlflow server [a b'c]\n"
    (secrets / "RAYCLS_TOKEN").unlink()
    assert said("doctor") == "raycls doctor []\n"


def test_the_image_has_what_the_package_needs() -> None:
    """The lock of the image has the versions of the other one, and all that pyproject.toml asks for."""

    def pinned(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE))

    image, ours = pinned(DEPLOY / "requirements.lock"), pinned(DEPLOY.parent / "requirements-dev.lock")
    assert {name: version for name, version in image.items() if ours.get(name, version) != version} == {}
    assert {"torch", "ray", "mlflow", "psycopg", "psycopg-binary"} <= set(image)
    assert "pytest" not in image
