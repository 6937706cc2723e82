"""cluster.yaml: Ray's launcher accepts it, and it says what raycls says."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from raycls.cluster.environment import environment

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def variables(document: dict[str, Any]) -> dict[str, str]:
    """The --env options, read as the shell reads them when it starts the container."""
    options = [word for option in document["docker"]["run_options"] for word in shlex.split(option)]
    pairs = [option.removeprefix("--env=").split("=", 1) for option in options if option.startswith("--env=")]
    return dict(pairs)


def test_rays_own_schema_accepts_it(document: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "max_workers": "four"}, schema)


def test_ray_starts_with_the_environment_of_raycls_env(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start commands as they stand, with programs of their names that say what they see."""
    (tmp_path / "ray").write_text('#!/bin/sh\n[ "$1" = stop ] || env -0 > "$HOME/seen"\n')
    (tmp_path / "raycls").write_text(f'#!/bin/sh\nexec {sys.executable} -m raycls "$@"\n')
    for program in ("ray", "raycls"):
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)  # all nodes have the same
    outside = {
        "RAY_AUTH_TOKEN": "f" * 64,
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "RAY_HEAD_IP": "10.0.0.1",
    }
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (tmp_path / "seen").unlink(missing_ok=True)
        for command in document[key]:
            subprocess.run(["bash", "-c", command], env=outside, check=True, timeout=60)
        seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().split("\0") if line)
        assert environment().items() <= seen.items()


def test_storage_and_mlflow_are_uris(variables: dict[str, str]) -> None:
    assert "://" in variables["RAYCLS_STORAGE"]
    assert "://" in variables["MLFLOW_TRACKING_URI"]


def test_gpu_workers_come_and_go(document: dict[str, Any]) -> None:
    worker = document["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= document["max_workers"]


def test_the_image_has_the_ray_of_this_environment(document: dict[str, Any]) -> None:
    assert document["docker"]["image"].startswith(f"rayproject/ray:{ray.__version__}-py3")


def test_every_node_gets_the_same_token(document: dict[str, Any]) -> None:
    assert document["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
